//! What a way out costs: the same loads on our proxy with the DC reached directly, through a SOCKS5
//! server and through Shadowsocks servers, in turn with each other and with the plain relay.
//!
//! The servers run on the load's cores; only the proxy's own CPU is counted. Those of Debian are
//! used when they are installed.

use std::{
    env, io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use shards::proto::shadowsocks::Method;

use crate::{
    client::Mode,
    compare::Series,
    far_side::{self, ShadowsocksServer},
    report::{Table, figure},
    scenario::Scenario,
    session::{Bench, BenchError, Entry},
    target::{Target, TargetSpec, config::ProxyConfig, free_port},
};

/// One way to the DC, with the server that it leads through.
#[derive(Debug)]
pub struct Way {
    name: String,
    /// Its entry of `upstreams`; none where the DC is reached directly.
    entry: Option<String>,
    _server: Option<Server>,
}

/// All ways that this machine has.
#[derive(Debug)]
pub struct Ways {
    /// In the order in which they are measured; the direct one is the last.
    pub all: Vec<Way>,
    /// The others, each with the program that is missing.
    pub left_out: Vec<(String, &'static str)>,
}

/// A program that ends with its way.
#[derive(Debug)]
struct Server(Child);

/// What a way needs: its entry of `upstreams`, and its server if that is a program.
type Started = (String, Option<Server>);

/// What is run on every way: scenario, heading of its column, factor from CPU seconds per unit to
/// what the column shows.
const COLUMNS: [(&str, &str, f64); 3] = [
    ("bulk-down", "bulk-down, CPU-s per GiB", 1.0),
    ("bulk-up-1m", "bulk-up-1m, CPU-s per GiB", 1.0),
    ("churn", "CPU us per session", 1e3),
];

/// The ways besides the direct one.
const ROUTES: [Route; 6] = [
    Route::Socks5,
    Route::Shadowsocks(Method::Aes128Gcm),
    Route::Shadowsocks(Method::Aes256Gcm),
    Route::Shadowsocks(Method::ChaCha20Poly1305),
    Route::Shadowsocks(Method::Blake3Aes128Gcm),
    Route::Shadowsocks(Method::Blake3Aes256Gcm),
];

#[derive(Clone, Copy, Debug)]
enum Route {
    Socks5,
    Shadowsocks(Method),
}

impl Ways {
    /// Starts the servers of all ways whose names begin with one of `only`, which stands for all
    /// when it is empty.
    ///
    /// # Errors
    /// A server that is installed does not listen.
    pub fn start(only: &[String]) -> io::Result<Ways> {
        let mut ways = Ways {
            all: Vec::new(),
            left_out: Vec::new(),
        };
        let wanted = |name: &str| only.is_empty() || only.iter().any(|o| name.starts_with(o));
        for route in ROUTES {
            let name = route.name();
            if !wanted(name) {
                continue;
            }
            match route.start()? {
                Ok((entry, server)) => ways.all.push(Way {
                    name: name.into(),
                    entry: Some(entry),
                    _server: server,
                }),
                Err(program) => ways.left_out.push((name.into(), program)),
            }
        }
        ways.all.push(Way {
            name: DIRECT.into(),
            entry: None,
            _server: None,
        });
        Ok(ways)
    }

    /// Measures all of them in turn; the result is a table in markdown. Figures are medians, and
    /// ratios are to the direct way.
    ///
    /// # Errors
    /// [`BenchError`]: a target does not start, or a load fails.
    pub fn measure(
        &self,
        bench: &mut Bench,
        config: &ProxyConfig,
        mode: Mode,
        shares: usize,
    ) -> Result<String, BenchError> {
        let relay = bench.start(&TargetSpec::Relay)?;
        let mut targets = Vec::new();
        for way in &self.all {
            let config = match &way.entry {
                Some(entry) => config.through(&way.name, entry),
                None => config.clone(),
            };
            targets.push(bench.start(&TargetSpec::Pinnace(config))?);
        }
        let mut columns = Vec::new();
        for (name, _, factor) in COLUMNS {
            let scenario = Scenario::find(name);
            let scenario = scenario.expect("a column names a scenario, as a test shows");
            let entry = |target| Entry { target, mode };
            let all = [&relay].into_iter().chain(&targets);
            let entries: Vec<Entry<'_>> = all.map(entry).collect();
            let group = bench.load(scenario, &entries, shares)?;
            columns.push(shown(&group.series, factor));
        }
        Ok(self.table(&relay, &columns))
    }

    fn table(&self, relay: &Target, columns: &[Vec<String>]) -> String {
        let [(_, down, _), (_, up, _), (_, session, _)] = COLUMNS;
        let mut table = Table::new(&["way", down, up, session]);
        let ways = self.all.iter().map(|way| way.name.as_str());
        for (row, name) in [relay.name()].into_iter().chain(ways).enumerate() {
            let cell = |n: usize| {
                let column: Option<&Vec<String>> = columns.get(n);
                column.and_then(|c| c.get(row)).cloned().unwrap_or_default()
            };
            table.row([name.to_owned(), cell(0), cell(1), cell(2)]);
        }
        table.markdown()
    }
}

/// One column: the median of each series, and its ratio to the last, the direct way's.
fn shown(all: &[Series], factor: f64) -> Vec<String> {
    let base = all.last().map_or(f64::NAN, Series::cpu_per_unit);
    let cell = |one: &Series| {
        let cost = one.cpu_per_unit();
        format!("{} ({:.2})", figure(cost * factor), cost / base)
    };
    all.iter().map(cell).collect()
}

impl Route {
    /// On the command line and in tables.
    fn name(self) -> &'static str {
        match self {
            Route::Socks5 => "socks5",
            Route::Shadowsocks(method) => method.name(),
        }
    }

    /// Its entry of `upstreams` and its server, or the program that is not installed.
    fn start(self) -> io::Result<Result<Started, &'static str>> {
        let port = free_port()?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let port = port.to_string();
        let (program, entry, args) = match self {
            Route::Shadowsocks(method) if method.is_2022() => {
                let server = ShadowsocksServer::start(method)?;
                return Ok(Ok((server.entry(), None)));
            }
            Route::Shadowsocks(method) => {
                let password = far_side::password(method);
                let args = vec![
                    "-s",
                    "127.0.0.1",
                    "-p",
                    &port,
                    "-k",
                    password,
                    "-m",
                    method.name(),
                    "--no-delay",
                ];
                ("ss-server", far_side::entry(method, password, addr), args)
            }
            Route::Socks5 => {
                let entry = format!("{{ type = \"socks5\", address = \"{addr}\" }}");
                ("microsocks", entry, vec!["-i", "127.0.0.1", "-p", &port])
            }
        };
        let Some(path) = find(program) else {
            return Ok(Err(program));
        };
        // On our own cores, which it inherits.
        let child = Command::new(path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Server(child);
        listens(addr)?;
        Ok(Ok((entry, Some(server))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a process that has ended already cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks for a program on `PATH` and where Debian keeps those of the administrator.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let places = env::split_paths(&path).chain(own);
    places
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn listens(addr: SocketAddr) -> io::Result<()> {
    for _ in 0..1_000 {
        if TcpStream::connect(addr).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(io::ErrorKind::TimedOut.into())
}

const DIRECT: &str = "direct";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_names_a_scenario() {
        for (name, ..) in COLUMNS {
            assert!(Scenario::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn ways_are_chosen_by_the_beginning_of_their_names() {
        let ways = Ways::start(&["2022-blake3-aes".into()]).unwrap();
        let names: Vec<&str> = ways.all.iter().map(|way| way.name.as_str()).collect();
        let methods = [Method::Blake3Aes128Gcm, Method::Blake3Aes256Gcm];
        let [first, second] = methods.map(Method::name);
        assert_eq!(names, [first, second, DIRECT]);
        assert!(ways.left_out.is_empty());
        let direct = ways.all.last().map(|way| way.entry.is_none());
        assert_eq!(direct, Some(true));
    }
}

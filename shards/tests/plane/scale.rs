//! What ten thousand users cost: updates, memory, snapshots.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use shards::{proto::secret::Secret, settings::UserSettings};

use crate::{
    support::{LIMIT, Proxy, pause, user},
    talk::{Talk, connect_from, echo},
};

const USERS: u32 = 10_000;

fn many() -> Vec<UserSettings> {
    let one = |n: u32| {
        let mut secret = [0xa5; 16];
        secret[..4].copy_from_slice(&n.to_be_bytes());
        user(&format!("user-{n}"), Secret(secret))
    };
    (0..USERS).map(one).collect()
}

fn proxy(shards: usize, users: Vec<UserSettings>) -> Proxy {
    Proxy::start(echo(), |settings| {
        settings.plane.cores = (0..shards).map(|shard| shard % 2).collect();
        settings.users = users.into();
    })
}

#[test]
fn change_of_one_among_ten_thousand_reaches_every_shard_soon() {
    let proxy = proxy(2, many());
    let secret = many()[9_999].secret;
    let mut talk = Talk::secure_as(connect_from(proxy.addr, 2), &secret);
    assert!(talk.is_served(100));
    let mut took = Vec::new();
    for round in 0..20 {
        let live = &mut *proxy.live();
        live.users[500].connections_max = round + 1;
        let begun = Instant::now();
        let updating = live.control.update(&live.users, &live.hot, false);
        let made = begun.elapsed();
        assert!(updating.wait(LIMIT));
        took.push((begun.elapsed(), made));
    }
    took.sort_unstable();
    println!(
        "update: {:?}, of which the table {:?}",
        took[10].0, took[10].1
    );
    // Generous: a machine may be busy with other things.
    assert!(took[10].0 < Duration::from_millis(200), "{took:?}");
    assert!(talk.is_served(100));
    drop(talk);
    proxy.until_idle();
}

/// CPU time of each thread of this process, by number.
fn threads_cpu() -> HashMap<PathBuf, Duration> {
    let tasks = fs::read_dir("/proc/self/task").expect("threads");
    let paths = tasks.map(|task| task.expect("a thread").path());
    paths
        .filter_map(|path| {
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            // Behind the name, which is in brackets.
            let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
            let ticks = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
            Some((path, Duration::from_millis(10 * ticks)))
        })
        .collect()
}

fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let field = line.and_then(|line| line.split_whitespace().nth(1));
    field.expect("a size").parse().expect("a number")
}

#[test]
#[ignore = "measures; run alone with --release --ignored --nocapture"]
fn memory_and_snapshots_of_ten_thousand_users() {
    let proxy = proxy(4, many()[..1].to_vec());
    let users = many();
    let before = resident_kib();
    {
        let live = &mut *proxy.live();
        assert!(live.control.update(&users, &live.hot, false).wait(LIMIT));
    }
    proxy.snapshot();
    let after = resident_kib();
    println!(
        "{} bytes a user, settings of the caller aside, on four shards",
        (after - before) * 1_024 / USERS as usize
    );
    let talks: Vec<_> = (2..=200)
        .map(|last| {
            let secret = users[usize::from(last) * 40].secret;
            let mut talk = Talk::secure_as(connect_from(proxy.addr, last), &secret);
            assert!(talk.is_served(100));
            talk
        })
        .collect();
    pause(1_000);
    let (before, begun) = (threads_cpu(), Instant::now());
    for _ in 0..100 {
        proxy.snapshot();
        pause(100);
    }
    let took = begun.elapsed();
    let mut used: Vec<Duration> = threads_cpu()
        .into_iter()
        .filter_map(|(thread, cpu)| Some(cpu - *before.get(&thread)?))
        .collect();
    used.sort_unstable();
    // The first is this thread, which merges.
    let most = &used[used.len().saturating_sub(6)..];
    println!("CPU in {took:?} at ten snapshots a second: {most:?}");
    let shard = used[used.len().saturating_sub(2)];
    assert!(shard.as_secs_f64() < 0.01 * took.as_secs_f64(), "{used:?}");
    drop(talks);
    proxy.until_idle();
}

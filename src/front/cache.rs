//! What was learned, on disk: a file for each domain, for the start of the next process.
//!
//! A file that cannot be read, or is about another target, is none: it is written anew when the
//! site has answered.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use shards::{
    proto::faketls::client_hello::SUITES,
    settings::{FlightBytes, Flights, Front, SuiteOrder},
};

use super::{Known, Target};
use crate::{file_write, state_file};

/// The file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    domain: String,
    /// Where it was learned.
    target: String,
    learned_epoch_secs: u64,
    /// The site's order; missing where the client's counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suites: Option<[u16; 3]>,
    hybrid: bool,
    key_share_first: bool,
    flights: Sizes,
}

/// Fewest and most bytes.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Sizes {
    h2: Option<(u16, u16)>,
    http11: Option<(u16, u16)>,
    neither: Option<(u16, u16)>,
    h2_zlib: Option<(u16, u16)>,
    h2_plain: Option<(u16, u16)>,
}

/// What an earlier process has learned of this domain at this target.
pub(super) fn load(dir: &Path, domain: &str, target: &Target) -> Option<Known> {
    let path = path(dir, domain);
    let bytes = match file_write::read_bounded(&path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("{} cannot be used: {error}", path.display());
            return None;
        }
    };
    match read(&bytes, domain, target) {
        Ok(known) => Some(known),
        Err(why) => {
            tracing::warn!("{} cannot be used: {why}", path.display());
            None
        }
    }
}

/// Keeps what was learned.
///
/// # Errors
/// Those of the file system; the old file is whole then.
pub(super) fn store(dir: &Path, domain: &str, target: &Target, known: &Known) -> io::Result<()> {
    let front = known.front;
    let pair = |bytes: Option<FlightBytes>| bytes.map(|bytes| (bytes.least, bytes.most));
    let file = File {
        version: VERSION,
        domain: domain.to_owned(),
        target: target.to_string(),
        learned_epoch_secs: known.at,
        suites: match front.suites {
            SuiteOrder::Client => None,
            SuiteOrder::Site(order) => Some(order),
        },
        hybrid: front.hybrid,
        key_share_first: front.key_share_first,
        flights: Sizes {
            h2: pair(front.flights.h2),
            http11: pair(front.flights.http11),
            neither: pair(front.flights.neither),
            h2_zlib: pair(front.flights.h2_zlib),
            h2_plain: pair(front.flights.h2_plain),
        },
    };
    let text = serde_json::to_vec_pretty(&file).map_err(io::Error::other)?;
    state_file::replace(&path(dir, domain), &text)
}

fn read(bytes: &[u8], domain: &str, target: &Target) -> Result<Known, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!("it has version {}, not {VERSION}", file.version));
    }
    let here = target.to_string();
    if file.domain != domain || file.target != here {
        return Err(format!("it is about {} at {}", file.domain, file.target));
    }
    let suites = match file.suites {
        None => SuiteOrder::Client,
        Some(order) if SUITES.iter().all(|suite| order.contains(suite)) => SuiteOrder::Site(order),
        Some(_) => return Err("it names other suites than TLS 1.3 has".to_owned()),
    };
    let size = |pair: Option<(u16, u16)>| match pair {
        None => Ok(None),
        Some((least, most)) if least <= most => Ok(Some(FlightBytes { least, most })),
        Some(_) => Err("its sizes are the wrong way round".to_owned()),
    };
    Ok(Known {
        front: Front {
            suites,
            hybrid: file.hybrid,
            key_share_first: file.key_share_first,
            flights: Flights {
                h2: size(file.flights.h2)?,
                http11: size(file.flights.http11)?,
                neither: size(file.flights.neither)?,
                h2_zlib: size(file.flights.h2_zlib)?,
                h2_plain: size(file.flights.h2_plain)?,
            },
        },
        at: file.learned_epoch_secs,
    })
}

/// Domains are host names: letters, digits, dots and hyphens.
fn path(dir: &Path, domain: &str) -> PathBuf {
    dir.join(format!("{domain}.json"))
}

const VERSION: u32 = 1;
const FILE_BYTES_MAX: usize = 16 << 10;

//! The supervisor against shards that do at once what plans say, in virtual time.

mod process;
mod rules;
mod scenarios;

use process::Process;

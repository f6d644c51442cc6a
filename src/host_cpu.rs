//! Whether this CPU has what the binary was built for: builds are for the CPU of the builder.
//!
//! Asks the kernel, because the compiler takes the features it was given for granted.

use std::fs;

/// Features the compiler may have used, as the compiler and as the kernel calls them.
const FEATURES: [(bool, &str); 8] = [
    (cfg!(target_feature = "aes"), "aes"),
    (cfg!(target_feature = "avx2"), "avx2"),
    (cfg!(target_feature = "bmi2"), "bmi2"),
    (cfg!(target_feature = "sha"), "sha_ni"),
    (cfg!(target_feature = "vaes"), "vaes"),
    (cfg!(target_feature = "avx512f"), "avx512f"),
    (cfg!(target_feature = "avx512bw"), "avx512bw"),
    (cfg!(target_feature = "avx512vl"), "avx512vl"),
];

/// What the binary needs and this CPU lacks, with what to do about it; `None` when all is there or
/// the kernel does not say.
pub(crate) fn complaint() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let missing = missing(&info, &FEATURES)?;
    Some(format!(
        "this binary was built for a CPU with {missing}, which this one lacks; build it here, or \
         with RUSTFLAGS=\"-C target-cpu=x86-64-v3\""
    ))
}

fn missing(info: &str, features: &[(bool, &'static str)]) -> Option<&'static str> {
    let flags = info.lines().find(|line| line.starts_with("flags"))?;
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let lacking = features.iter().find(|(used, name)| *used && !has(name));
    lacking.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_first_feature_that_is_missing() {
        let info = "processor : 0\nflags\t\t: fpu aes avx2\n";
        assert_eq!(missing(info, &[(true, "aes"), (true, "avx2")]), None);
        assert_eq!(
            missing(info, &[(true, "aes"), (true, "vaes")]),
            Some("vaes")
        );
        assert_eq!(missing(info, &[(false, "vaes")]), None);
        assert_eq!(missing("no flags here", &[(true, "aes")]), None);
        assert_eq!(complaint(), None, "tests run where they were built");
    }
}

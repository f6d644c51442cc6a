//! `[general]` without the Middle-End: switches, log level, `modes`, `links`, `telemetry`.

use std::path::PathBuf;

use super::{
    keys::keys,
    kinds::{Filled, Names, StatePath},
    secrets::AdTag,
    value::choices,
};

keys! {
    /// `[general]`: process-wide switches.
    General in "general" {
        /// Sets the working directory that relative state and cache paths resolve against.
        data_path: Option<PathBuf> = None; Restart, Now
        /// Names the JSON file that keeps per-user quota usage across restarts and quota resets.
        quota_state_path: PathBuf = "telemt.limit.json".into(); Restart, Now
        /// Turns unknown keys from warnings into a load failure.
        config_strict: bool = false; Restart, Now
        /// Deprecated family preference; use network.prefer.
        prefer_ipv6: bool = false; Restart, Now, old "network.prefer"
        /// In direct mode, derives the Telegram-side session keys from the client keys instead of
        /// random ones.
        fast_mode: bool = true; Restart, Now
        /// Routes traffic through Telegram Middle-End servers instead of dialling data centres
        /// directly.
        use_middle_proxy: bool = true; Restart, Now
        /// Sets the sponsored-channel tag for users without their own entry in access.user_ad_tags.
        ad_tag: Option<AdTag> = None; Hot, Now; secret
        /// Allows direct routing while the Middle-End is not ready.
        me2dc_fallback: bool = true; Restart, Now
        /// Sends new sessions direct as soon as a previously ready Middle-End drops out.
        me2dc_fast: bool = true; Restart, Now
        /// Logs full details for every cipher desynchronisation instead of once per window.
        desync_all_full: bool = false; Hot, Now
        /// Collects per-address observations of scanners and failed handshakes.
        beobachten: bool = true; Restart, Now
        /// Sets how long per-address observations are kept.
        beobachten_minutes: u64 = 10, from 1; Restart, Now
        /// Sets how often the observation file is rewritten.
        beobachten_flush_secs: u64 = 15, from 1; Restart, Now
        /// Names the observation output file.
        beobachten_file: Filled = Filled("beobachten.txt".into()); Restart, Now
        /// Names the file that records unknown data-centre numbers.
        unknown_dc_log_path: Option<StatePath> =
            Some(StatePath("unknown-dc.txt".into())); Restart, Now
        /// Turns recording of unknown data-centre numbers on.
        unknown_dc_file_log_enabled: bool = false; Restart, Now
        /// Sets log verbosity.
        log_level: LogLevel = LogLevel::Normal; Hot, Now
        /// Removes terminal colours from log output.
        disable_colors: bool = false; Restart, Now
        /// Smallest TLS record in fast mode, accepted but unused by the reference.
        fast_mode_min_tls_record: usize = 0; Restart, Inert
        /// Startup clock check switch, accepted but unused by the reference.
        ntp_check: bool = true; Restart, Inert
        /// Time servers for the clock check, accepted but unused by the reference.
        ntp_servers: Vec<String> = vec!["pool.ntp.org".into()]; Restart, Inert
        /// Switch for automatic fall to direct mode, accepted but unused by the reference.
        auto_degradation_enabled: bool = true; Restart, Inert
        /// Number of lost data centres that would trigger direct mode, accepted but unused by the
        /// reference.
        degradation_min_unavailable_dc_groups: u8 = 2; Restart, Inert
        /// Chooses whether client sockets close with a reset, never, only before authentication, or
        /// always.
        rst_on_close: RstOnClose = RstOnClose::Off; Restart, Now
    }
}

keys! {
    /// `[general.modes]`: accepted kinds of client.
    Modes in "general.modes" {
        /// Accepts plain obfuscated clients and publishes links with a bare secret.
        classic: bool = false; Restart, Now
        /// Accepts padded clients and publishes links with a dd secret.
        secure: bool = false; Restart, Now
        /// Accepts fake-TLS clients and publishes links with an ee secret.
        tls: bool = true; Restart, Now
    }
}

keys! {
    /// `[general.links]`: what links say.
    Links in "general.links" {
        /// Selects users whose links are printed at startup.
        show: Names = Names::All; Restart, Now
        /// Replaces the detected host in every link.
        public_host: Option<String> = None; Restart, Now
        /// Replaces the listener port in every link.
        public_port: Option<u16> = None; Restart, Now
    }
}

keys! {
    /// `[general.telemetry]`: counter switches.
    Telemetry in "general.telemetry" {
        /// Turns core counters on.
        core_enabled: bool = true; Hot, Now
        /// Turns per-user counters on.
        user_enabled: bool = true; Hot, Now
        /// Sets how much Middle-End detail is counted.
        me_level: MeLevel = MeLevel::Normal; Hot, Now
    }
}

choices! {
    /// How much is logged.
    LogLevel {
        /// Everything.
        Debug = "debug",
        /// More than usual.
        Verbose = "verbose",
        /// What an operator wants to know.
        Normal = "normal",
        /// Errors only.
        Silent = "silent",
    }
}

choices! {
    /// Which client sockets are closed with a reset.
    RstOnClose {
        /// None.
        Off = "off",
        /// Those that never authenticated.
        Errors = "errors",
        /// All.
        Always = "always",
    }
}

choices! {
    /// How much Middle-End detail is counted.
    MeLevel {
        /// The usual.
        Normal = "normal",
        /// None.
        Silent = "silent",
        /// All.
        Debug = "debug",
    }
}

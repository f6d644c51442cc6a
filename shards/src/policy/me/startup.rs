//! The steps of the start and their progress; the supervisor runs those of the pool, whoever
//! fetches reports the others.
//!
//! Source: middle-proxy.md 12 and 26.11.

/// A step of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Download of the proxy secret, or its cached file.
    SecretFetch,
    /// Download of the IPv4 map, or its cached file.
    ConfigFetchV4,
    /// Download of the IPv6 map, or its cached file.
    ConfigFetchV6,
    /// The first plan.
    PoolConstruct,
    /// The first writers of every group.
    PoolInit,
    /// One dial per endpoint for the log; not done here, and skipped.
    ConnectivityPing,
}

/// What became of a step that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageMove {
    /// It begins (again).
    Started,
    /// It is done; a word on how ("cached file, 3 h old"), if any.
    Done(Option<String>),
    /// It failed and will be tried again; why.
    Failed(String),
    /// It is not needed; why.
    Skipped(String),
}

impl Stage {
    /// Every step in its order.
    pub const ALL: [Self; 6] = [
        Self::SecretFetch,
        Self::ConfigFetchV4,
        Self::ConfigFetchV6,
        Self::PoolConstruct,
        Self::PoolInit,
        Self::ConnectivityPing,
    ];

    /// `components[].id`.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::SecretFetch => "me_secret_fetch",
            Self::ConfigFetchV4 => "me_proxy_config_fetch_v4",
            Self::ConfigFetchV6 => "me_proxy_config_fetch_v6",
            Self::PoolConstruct => "me_pool_construct",
            Self::PoolInit => "me_pool_init_stage1",
            Self::ConnectivityPing => "me_connectivity_ping",
        }
    }

    /// `components[].title`.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::SecretFetch => "Fetch the proxy secret",
            Self::ConfigFetchV4 => "Fetch the IPv4 map of middle proxies",
            Self::ConfigFetchV6 => "Fetch the IPv6 map of middle proxies",
            Self::PoolConstruct => "Plan the pool of writers",
            Self::PoolInit => "Open the first writers",
            Self::ConnectivityPing => "Dial every middle proxy once",
        }
    }

    /// Points in `startup_progress_pct`.
    #[must_use]
    pub const fn weight(self) -> f64 {
        match self {
            Self::SecretFetch => 8.0,
            Self::ConfigFetchV4 | Self::ConfigFetchV6 => 4.0,
            Self::PoolConstruct | Self::ConnectivityPing => 6.0,
            Self::PoolInit => 24.0,
        }
    }
}

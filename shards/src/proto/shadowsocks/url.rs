//! `ss://` texts in their three forms.

use std::net::{IpAddr, Ipv6Addr};

use super::{Method, ServerKey};
use crate::proto::{
    link::{check_host, parse_port, percent_decode},
    secret::decode_base64,
};

/// A server: where it is and how to talk to it. Shows no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// A name or an address without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// Method and key.
    pub key: ServerKey,
}

impl ServerUrl {
    /// Reads `ss://base64(method:password)@host:port`, `ss://method:password@host:port` with a
    /// percent-encoded password, or `ss://base64(method:password@host:port)`; behind it may be
    /// `/`, a query and a `#name`. The port is 8388 where none is told.
    ///
    /// # Errors
    /// [`UrlError`]; none of them tells anything of the password.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("ss://").ok_or(UrlError::Scheme)?;
        let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.split('&').any(names_plugin) {
            return Err(UrlError::Plugin);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let Some((user, server)) = rest.rsplit_once('@') else {
            let whole = from_base64(rest).ok_or(UrlError::Form)?;
            let (user, server) = whole.rsplit_once('@').ok_or(UrlError::Form)?;
            let (method, password) = user.split_once(':').ok_or(UrlError::Form)?;
            return Self::new(method, password, server);
        };
        if let Some((method, password)) = user.split_once(':') {
            let password = percent_decode(password).ok_or(UrlError::Form)?;
            return Self::new(method, &password, server);
        }
        let user = percent_decode(user).ok_or(UrlError::Form)?;
        let user = from_base64(&user).ok_or(UrlError::Form)?;
        let (method, password) = user.split_once(':').ok_or(UrlError::Form)?;
        Self::new(method, password, server)
    }

    fn new(method: &str, password: &str, server: &str) -> Result<Self, UrlError> {
        let method = Method::by_name(method).ok_or(UrlError::Method)?;
        let (host, port) = split_server(server)?;
        Ok(Self {
            host,
            port,
            key: ServerKey::new(method, password)?,
        })
    }
}

/// Why a text is no server we can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not `ss://`.
    #[error("does not start with ss://")]
    Scheme,
    /// No method, password and server in it.
    #[error("is none of the three forms of an ss:// URL")]
    Form,
    /// A plugin is asked for.
    #[error("names a plugin; plugins are not supported")]
    Plugin,
    /// An unknown method.
    #[error("names a method that is not supported")]
    Method,
    /// No password, or for a 2022 method no base64 of exactly one key.
    #[error("has no usable password; 2022 methods need base64 of a key of the method's length")]
    Password,
    /// Several keys joined by colons.
    #[error("has several keys; identity headers are not supported")]
    Keys,
    /// No host.
    #[error("has no valid host")]
    Host,
    /// No port.
    #[error("has no valid port")]
    Port,
}

fn names_plugin(pair: &str) -> bool {
    let (key, _) = pair.split_once('=').unwrap_or((pair, ""));
    key.eq_ignore_ascii_case("plugin")
}

fn from_base64(text: &str) -> Option<String> {
    let bytes = decode_base64(text).filter(|bytes| !bytes.is_empty())?;
    String::from_utf8(bytes).ok()
}

fn split_server(server: &str) -> Result<(String, u16), UrlError> {
    let (host, port) = if let Some(rest) = server.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(UrlError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
        match rest {
            "" => (host, None),
            rest => (host, Some(rest.strip_prefix(':').ok_or(UrlError::Port)?)),
        }
    } else {
        match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        }
    };
    check_host(host).map_err(|_| UrlError::Host)?;
    let port = match port {
        Some(port) => parse_port(port).map_err(|_| UrlError::Port)?,
        None => DEFAULT_PORT,
    };
    let host = match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    };
    Ok((host, port))
}

const DEFAULT_PORT: u16 = 8388;

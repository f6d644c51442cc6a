//! Host names for FakeTLS as an operator writes them. Source: protocol.md 2.1, config.md 15.

use shards::proto::secret::check_domain;

/// The name in lower case, or what is wrong with it.
///
/// # Errors
/// A sentence part such as "has a scheme".
pub(crate) fn check(text: &str) -> Result<String, String> {
    let name = text.trim();
    let wrong = if name.is_empty() {
        "is blank"
    } else if name.contains("://") {
        "has a scheme"
    } else if name.contains('/') {
        "has a path"
    } else if name.contains(char::is_whitespace) {
        "has white space in it"
    } else if !name.is_ascii() {
        "has letters outside ASCII (write it in punycode, xn--…)"
    } else if name.parse::<std::net::IpAddr>().is_ok() {
        "is an address"
    } else if name.contains(':') {
        "has a port"
    } else if name.starts_with("__") || name.contains(['{', '}', '<', '>', '$']) {
        "is a placeholder that was not filled in"
    } else {
        return check_domain(name).map_err(|error| format!("is no host name ({error})"));
    };
    Err(wrong.to_owned())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn says_what_is_wrong_with_a_name() {
        assert_eq!(check("WWW.Example.org").as_deref(), Ok("www.example.org"));
        for (name, said) in [
            ("", "blank"),
            ("https://a.example", "scheme"),
            ("a.example/x", "path"),
            ("a b.example", "white space"),
            ("a.example:443", "port"),
            ("192.0.2.1", "address"),
            ("__TLS_DOMAIN__", "placeholder"),
            ("домен.example", "punycode"),
            ("a..example", "host name"),
        ] {
            assert!(check(name).unwrap_err().contains(said), "{name}");
        }
    }
}

//! Shows settings without what is secret in them.

const MASK: &str = "***";
/// Parts of the names of query parameters whose values are secret.
const SECRET_PARAMETERS: [&str; 4] = ["pass", "secret", "token", "key"];

/// Of what is secret as a whole: whether it is there.
pub(super) fn mask_all(text: &str) -> String {
    if text.is_empty() { String::new() } else { MASK.to_owned() }
}

/// The URL with its password masked. When it is no URL, nothing of it is shown: it may be the password itself.
pub(super) fn mask_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return mask_all(text);
    };
    // Up to the last `@`, not the first: a password that was not percent-encoded may hold any of `@ / ? #`.
    match rest.rsplit_once('@') {
        Some((user_info, host)) => format!("{scheme}://{}@{}", mask_user_info(user_info), mask_query(host)),
        None => format!("{scheme}://{}", mask_query(&mask_lost_password(rest))),
    }
}

fn mask_user_info(text: &str) -> String {
    match text.split_once(':') {
        Some((user, _)) => format!("{user}:{MASK}"),
        None => text.to_owned(),
    }
}

/// `user:password` whose host was forgotten looks like a host with a port that is no number.
fn mask_lost_password(rest: &str) -> String {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') && !port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{host}:{MASK}{}", &rest[end..])
        }
        _ => rest.to_owned(),
    }
}

fn mask_query(text: &str) -> String {
    let Some((path, query)) = text.split_once('?') else { return text.to_owned() };
    let parameters: Vec<String> = query.split('&').map(mask_parameter).collect();
    format!("{path}?{}", parameters.join("&"))
}

fn mask_parameter(text: &str) -> String {
    match text.split_once('=') {
        Some((name, _)) if SECRET_PARAMETERS.iter().any(|part| name.to_ascii_lowercase().contains(part)) => {
            format!("{name}={MASK}")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_secret_is_shown_whole() {
        for url in ["", "redis://localhost:6379", "postgres://app@db/app?sslmode=require", "redis://[::1]:6379/0"] {
            assert_eq!(mask_url(url), url);
        }
    }

    #[test]
    fn a_password_is_never_shown_however_it_is_written() {
        for url in [
            "postgres://app:hunter2@db/app",
            "redis://:hunter2@cache:6379",
            "postgres://app:a@hunter2@db/app",
            "postgres://app:a/hunter2?x#y@db/app",
            "postgres://app:hunter2",
            "postgres://app:hunter2/app",
            "postgres://db/app?password=hunter2&sslmode=require",
            "postgres://app@db/app?sslPassword=hunter2",
            "app:hunter2@db",
            "hunter2",
        ] {
            let shown = mask_url(url);
            assert!(!shown.contains("hunter2") && shown.contains(MASK), "{url} is shown as {shown}");
        }
        assert_eq!(mask_url("postgres://app:x@db/app?sslmode=require"), "postgres://app:***@db/app?sslmode=require");
    }
}

//! What a registry's words mean, as both engines pass them on. Pure.

use super::{Kind, Refusal};
use crate::retry::Retry;

/// Returns why a pull failed, by the engine's words.
pub fn refusal_of_pull(said: String) -> Refusal {
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    let kind = match retry_of_pull(&said) {
        Retry::Never if says(&["no matching manifest", "no match for platform"]) => {
            Kind::WrongPlatform
        }
        Retry::Never if says(&["x509", "certificate", "HTTP response to HTTPS client"]) => {
            Kind::Untrusted
        }
        Retry::Never => Kind::Final,
        retry => Kind::MayPass(retry),
    };
    Refusal::new(kind, said)
}

/// Returns whether a pull that failed with these words may succeed a little later: if the network
/// or the registry failed, not if the registry refused (words of Go's net, distribution and
/// containerd).
fn retry_of_pull(said: &str) -> Retry {
    const PASSING: [&str; 28] = [
        "connection refused",
        "connection reset",
        "connection timed out",
        "connection broke",
        "broken pipe",
        "network is unreachable",
        "no route to host",
        "no such host",
        "server misbehaving",
        "name resolution",
        "i/o timeout",
        "handshake timeout",
        "Client.Timeout",
        "request canceled",
        "deadline exceeded",
        "EOF",
        "closed network connection",
        "short read",
        "stream error",
        "GOAWAY",
        "connection lost",
        "failed size validation",
        "unexpected commit digest",
        "toomanyrequests",
        "too many requests",
        "Too Many Requests",
        "Unavailable",
        "Bad Gateway",
    ];
    if PASSING.iter().any(|word| said.contains(word)) || tells_of_a_busy_server(said) {
        Retry::UntilDeadline
    } else {
        Retry::Never
    }
}

/// True if the text mentions HTTP status 429 or 5xx, as a separate word, so that no port, tag or
/// digest counts.
fn tells_of_a_busy_server(said: &str) -> bool {
    let about_http = said.contains("HTTP") || said.contains("status");
    let mut words =
        said.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    about_http
        && words.any(|word| {
            word.len() == 3 && word.parse().is_ok_and(|code| matches!(code, 429 | 500..=599))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_final_refusal_tell_its_fix() {
        for (said, kind) in [
            (
                "no matching manifest for linux/arm64/v8 in the manifest list entries",
                Kind::WrongPlatform,
            ),
            (
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
                Kind::Untrusted,
            ),
            ("http: server gave HTTP response to HTTPS client", Kind::Untrusted),
            ("manifest unknown", Kind::Final),
        ] {
            assert_eq!(refusal_of_pull(said.into()).kind, kind, "{said}");
        }
    }

    #[test]
    fn only_what_may_pass_is_pulled_again() {
        for said in [
            "Get \"http://127.0.0.1:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
            "dial tcp: lookup registry.example.org on 10.0.0.1:53: no such host",
            "received unexpected HTTP status: 503 Service Unavailable",
            "unexpected status from GET request to http://r/v2/a/blobs/sha256:0: 502 Bad Gateway",
            "toomanyrequests: rate exceeded",
            "error parsing HTTP 429 response body: no error details found in HTTP response body: \"{}\"",
            "unexpected status from HEAD request to http://127.0.0.1:5002/v2/ok/manifests/1: 503 Service Unavailable",
            "failed to copy: httpReadSeeker: failed open: unexpected EOF",
            "net/http: TLS handshake timeout",
            "failed to copy: stream error: stream ID 5; INTERNAL_ERROR; received from peer",
            "http2: server sent GOAWAY and closed the connection; LastStreamID=3, ErrCode=NO_ERROR",
            "failed size validation: 7 != 4096: failed precondition",
        ] {
            assert_eq!(retry_of_pull(said), Retry::UntilDeadline, "{said}");
        }
        for said in [
            "manifest unknown",
            "unauthorized: authentication required",
            "pull access denied for x, repository does not exist",
            "received unexpected HTTP status: 403 Forbidden",
            "unexpected status from HEAD request to http://r/v2/a/manifests/1: 401 Unauthorized",
            "no matching manifest for linux/amd64 in the manifest list entries",
            "unexpected status from GET request to http://r:500/v2/a/manifests/503: 403 Forbidden",
            "no space left on device",
            "http: server gave HTTP response to HTTPS client",
        ] {
            assert_eq!(retry_of_pull(said), Retry::Never, "{said}");
        }
    }
}

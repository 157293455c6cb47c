//! Which versions, suites and groups are offered: the library's own, or those that the configuration names.

use std::sync::Arc;

use forebay_core::config::TlsOffers;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SupportedProtocolVersion};

/// A provider that offers no more than this, and the versions.
pub(super) fn provider(
    offers: &TlsOffers,
) -> Result<(Arc<CryptoProvider>, Vec<&'static SupportedProtocolVersion>), String> {
    let mut provider = aws_lc_rs::default_provider();
    // Its SHA-256 has instructions of the processor's, the SHA-384 of AES-256 has none: a tenth of a connection's CPU.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    if !offers.suites.is_empty() {
        let known = aws_lc_rs::ALL_CIPHER_SUITES;
        provider.cipher_suites = named(&offers.suites, |name| {
            known.iter().find(|suite| suite.suite().as_str().is_some_and(|s| iana(s) == name)).copied()
        })?;
    }
    if !offers.groups.is_empty() {
        let known = aws_lc_rs::ALL_KX_GROUPS;
        provider.kx_groups = named(&offers.groups, |name| {
            known.iter().find(|group| group.name().as_str().is_some_and(|s| s.eq_ignore_ascii_case(name))).copied()
        })?;
    }
    let versions = match offers.versions.is_empty() {
        true => rustls::DEFAULT_VERSIONS.to_vec(),
        false => named(&offers.versions, |name| match name {
            "1.2" => Some(&rustls::version::TLS12),
            "1.3" => Some(&rustls::version::TLS13),
            _ => None,
        })?,
    };
    Ok((Arc::new(provider), versions))
}

fn named<T>(names: &[Arc<str>], find: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    names.iter().map(|name| find(name).ok_or_else(|| format!("the TLS library has no \"{name}\""))).collect()
}

/// The library says TLS13 where IANA says TLS.
fn iana(suite: &str) -> String {
    suite.replace("TLS13_", "TLS_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(versions: &[&str], suites: &[&str], groups: &[&str]) -> TlsOffers {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        TlsOffers { versions: names(versions), suites: names(suites), groups: names(groups) }
    }

    /// An offer that is larger than what the operator wrote is the very thing they wanted to rule out.
    #[test]
    fn no_more_is_offered_than_is_named() {
        let named = offers(
            &["1.3", "1.2"],
            &["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"],
            &["secp384r1", "X25519"],
        );
        let (provider, versions) = provider(&named).expect("the library has them");
        let suites: Vec<_> = provider.cipher_suites.iter().map(|s| s.suite().as_str()).collect();
        assert_eq!(suites, [Some("TLS13_AES_128_GCM_SHA256"), Some("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")]);
        let groups: Vec<_> = provider.kx_groups.iter().map(|g| g.name().as_str()).collect();
        assert_eq!(groups, [Some("secp384r1"), Some("X25519")]);
        assert_eq!(versions.len(), 2);
    }

    /// A reload with a name that is not known must fail before anything changes.
    #[test]
    fn a_name_that_the_library_does_not_know_is_refused() {
        for unknown in [offers(&["1.1"], &[], &[]), offers(&[], &["RC4"], &[]), offers(&[], &[], &["brainpool"])] {
            assert!(provider(&unknown).is_err(), "{unknown:?}");
        }
        assert!(provider(&TlsOffers::default()).is_ok());
    }
}

//! What is read from a certificate's own bytes: the hash that channel binding `tls-server-end-point` uses
//! (RFC 5929, section 4.1), and the common name of its subject.

use std::sync::Arc;

use aws_lc_rs::digest::{self, Algorithm};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
/// PSS parameters: the hash algorithm is the element with context tag 0.
const CONTEXT_0: u8 = 0xa0;

/// Hash of `certificate` (DER) by the hash of its signature algorithm, SHA-256 in place of MD5 and SHA-1. Empty
/// where the algorithm has none of its own (Ed25519) or is not known: then there is no channel binding.
pub(crate) fn end_point_hash(certificate: &[u8]) -> Arc<[u8]> {
    match signature_hash(certificate) {
        Some(algorithm) => digest::digest(algorithm, certificate).as_ref().into(),
        None => Arc::default(),
    }
}

fn signature_hash(certificate: &[u8]) -> Option<&'static Algorithm> {
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID, parameters }, … }
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    let (oid, parameters) = element(algorithm, OBJECT_ID)?;
    hash_of_signature(oid).or_else(|| (oid == RSA_PSS).then(|| hash_of_pss(parameters))?)
}

/// The first common name of the subject of `certificate` (DER), if it has one that is text without a NUL: whom the
/// authority says that it belongs to.
pub(crate) fn common_name(certificate: &[u8]) -> Option<&str> {
    // TBSCertificate ::= SEQUENCE { [0] version, serial INTEGER, signature, issuer, validity, subject SEQUENCE, … }
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (rest, _) = element(certificate, SEQUENCE)?;
    let rest = element(rest, CONTEXT_0).map_or(rest, |(_, rest)| rest);
    let (_, rest) = element(rest, INTEGER)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (mut subject, _) = element(rest, SEQUENCE)?;
    while let Some((set, rest)) = element(subject, SET) {
        subject = rest;
        let (attribute, _) = element(set, SEQUENCE)?;
        let (oid, value) = element(attribute, OBJECT_ID)?;
        if oid == COMMON_NAME {
            let (name, _) = element(value, *value.first()?)?;
            return std::str::from_utf8(name).ok().filter(|name| !name.contains('\0'));
        }
    }
    None
}

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// 1.2.840.113549.1.1.10
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];

fn hash_of_signature(oid: &[u8]) -> Option<&'static Algorithm> {
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
    const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4];
    if let Some(last) = oid.strip_prefix(&RSA) {
        return match last {
            // MD5, SHA-1, SHA-256.
            [4 | 5 | 11] => Some(&digest::SHA256),
            [12] => Some(&digest::SHA384),
            [13] => Some(&digest::SHA512),
            [14] => Some(&digest::SHA224),
            _ => None,
        };
    }
    match oid.strip_prefix(&ECDSA)? {
        // ecdsa-with-SHA1, then SHA-2 by size.
        [1] | [3, 2] => Some(&digest::SHA256),
        [3, 1] => Some(&digest::SHA224),
        [3, 3] => Some(&digest::SHA384),
        [3, 4] => Some(&digest::SHA512),
        _ => None,
    }
}

fn hash_of_pss(parameters: &[u8]) -> Option<&'static Algorithm> {
    const SHA2: [u8; 8] = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];
    let (parameters, _) = element(parameters, SEQUENCE)?;
    // Absent: the default, SHA-1.
    let Some((hash, _)) = element(parameters, CONTEXT_0) else { return Some(&digest::SHA256) };
    let (hash, _) = element(hash, SEQUENCE)?;
    let (oid, _) = element(hash, OBJECT_ID)?;
    match oid.strip_prefix(&SHA2) {
        Some([1]) => Some(&digest::SHA256),
        Some([2]) => Some(&digest::SHA384),
        Some([3]) => Some(&digest::SHA512),
        Some([4]) => Some(&digest::SHA224),
        _ => Some(&digest::SHA256),
    }
}

/// The contents of the DER element that `bytes` begin with, if it has this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first != tag {
        return None;
    }
    let (&short, rest) = rest.split_first()?;
    let (len, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let digits = usize::from(short & 0x7f);
        if digits == 0 || digits > 4 {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(digits)?;
        (digits.iter().fold(0, |len, d| len << 8 | usize::from(*d)), rest)
    };
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let params = rcgen::CertificateParams::new(vec!["db".to_owned()]).expect("parameters");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    /// A hash by another algorithm than libpq's is a refused login wherever channel binding is required.
    #[test]
    fn the_hash_follows_the_signature_algorithm() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(&*end_point_hash(&der), digest::digest(&digest::SHA256, &der).as_ref());
        let der = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(&*end_point_hash(&der), digest::digest(&digest::SHA384, &der).as_ref());
        assert!(end_point_hash(&certificate(&rcgen::PKCS_ED25519)).is_empty());
    }

    /// A name read from the wrong place would let one user in as another.
    #[test]
    fn the_common_name_is_the_subject_s() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["db".to_owned()]).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "forebay");
        params.distinguished_name.push(rcgen::DnType::CommonName, "app");
        let mut issuer = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        issuer.distinguished_name = rcgen::DistinguishedName::new();
        issuer.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let issuer = rcgen::Issuer::new(issuer, rcgen::KeyPair::generate().expect("a key"));
        let der = params.signed_by(&key, &issuer).expect("a certificate").der().to_vec();
        assert_eq!(common_name(&der), Some("app"));
        for end in 0..der.len() {
            assert!(common_name(&der[..end]).is_none_or(|name| name == "app"));
        }
    }

    /// A server's certificate is foreign input.
    #[test]
    fn a_certificate_cut_anywhere_has_no_hash_or_a_whole_one() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for end in 0..der.len() {
            end_point_hash(&der[..end]);
        }
        assert!(end_point_hash(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_empty());
    }
}

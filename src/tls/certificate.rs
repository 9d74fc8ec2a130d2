//! What a certificate says. Owns reading the names and the end of one; refuses to judge whether it can be trusted.

use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::extensions::GeneralName;

use crate::peer::ClientCertificate;

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// The subject's alternative names, each with its kind.
    pub(super) names: Vec<String>,
    /// When it ends.
    pub(super) not_after: Timestamp,
}

/// A certificate that is not X.509 as it should be.
#[derive(Debug)]
pub(super) struct Unreadable;

/// Reads a certificate (DER).
pub(super) fn read(der: &[u8]) -> Result<Certificate, Unreadable> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| Unreadable)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Unreadable)?
        .map(|extension| extension.value.general_names.iter().filter_map(named).collect())
        .unwrap_or_default();
    let not_after = certificate.validity().not_after.timestamp();
    Ok(Certificate {
        names,
        // The end of the year 9999 stands for no end, and is a little later than the latest time we can say.
        not_after: Timestamp::from_second(not_after).unwrap_or(Timestamp::MAX),
    })
}

/// A name with its kind; `None` for kinds that nobody is called by.
fn named(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::URI(uri) => Some(format!("uri:{uri}")),
        GeneralName::DNSName(host) => Some(format!("dns:{host}")),
        GeneralName::RFC822Name(mailbox) => Some(format!("email:{mailbox}")),
        GeneralName::IPAddress(octets) => ip_address(octets).map(|ip| format!("ip:{ip}")),
        _ => None,
    }
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

impl From<Certificate> for ClientCertificate {
    fn from(certificate: Certificate) -> Self {
        Self {
            names: certificate.names,
            not_after: certificate.not_after,
        }
    }
}

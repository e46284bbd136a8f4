//! Which servers the S3 client trusts: those with a certificate from the system's authorities, from the authorities in
//! `AWS_CA_BUNDLE`, or with exactly a certificate in that file.
//!
//! The last case is a server that was set up quickly: its self-signed certificate also claims to be an authority. rustls
//! never accepts an authority as a server. Here it is accepted if a person named exactly that certificate, byte for byte,
//! and name and time are right.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Read once: it takes some milliseconds, and each volume has a client.
static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a certificate of the system cannot be read");
    }
    found.certs
});

/// Why TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error("cannot read {path}: {cause}")]
    Read { path: String, cause: std::io::Error },
    #[error("{path} has no certificate in PEM form")]
    Empty { path: String },
    #[error("{path}: {cause}")]
    Bundle { path: String, cause: String },
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// TLS for the client; trusts `bundle` in addition to the system's authorities.
///
/// # Errors
/// If the bundle cannot be read or has no certificate.
pub(super) fn tls(bundle: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut roots = RootCertStore::empty();
    // rustls cannot parse some of the system's certificates.
    roots.add_parsable_certificates(SYSTEM.iter().cloned());
    let named = bundle.map(read).transpose()?.unwrap_or_default();
    for certificate in &named {
        let cause = |cause: rustls::Error| TrustError::Bundle { path: shown(bundle), cause: cause.to_string() };
        roots.add(certificate.clone()).map_err(cause)?;
    }
    if named.is_empty() {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let standard = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    let verifier = Arc::new(Verifier { standard, named });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn shown(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let shown = || shown(Some(path));
    let text = std::fs::read(path).map_err(|cause| TrustError::Read { path: shown(), cause })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TrustError::Empty { path: shown() }),
        Ok(found) => Ok(found),
        Err(cause) => Err(TrustError::Bundle { path: shown(), cause: cause.to_string() }),
    }
}

/// The standard checks, and the certificates that a person named.
#[derive(Debug)]
struct Verifier {
    standard: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

/// Whether the only fault is the issuer. webpki checks the time first, so the time is right then.
fn is_about_the_issuer(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(error) = error else { return false };
    match error {
        CertificateError::UnknownIssuer => true,
        CertificateError::Other(other) => {
            matches!(other.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.standard.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if is_about_the_issuer(&error) && self.named.iter().any(|named| named == end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.standard.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.standard.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.standard.supported_verify_schemes()
    }
}

//! TLS in front of a server that has none, with a certificate that `openssl` makes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::mounts::run;

/// A certificate with its key, as files in PEM form.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// `openssl req -x509` with `args`, into `dir`; without `-CA` it signs itself.
    ///
    /// # Panics
    /// When openssl refuses.
    pub fn make(dir: &Path, name: &str, args: &[&str]) -> Certificate {
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-subj", &format!("/CN={name}"), "-keyout"]).arg(&key).arg("-out").arg(&certificate).args(args);
        run(&mut command);
        Certificate { certificate, key }
    }
}

impl Certificate {
    /// A self-signed certificate for 127.0.0.1 that claims to be an authority and has expired.
    ///
    /// # Panics
    /// When openssl refuses.
    pub fn expired(dir: &Path, name: &str) -> Certificate {
        let made = Certificate { certificate: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        let request = dir.join(format!("{name}.req"));
        let mut command = Command::new("openssl");
        command.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1"]);
        command.args(["-addext", "basicConstraints=critical,CA:TRUE", "-keyout"]).arg(&made.key);
        run(command.arg("-out").arg(&request));
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "0", "-copy_extensions", "copy", "-in"]).arg(&request);
        run(command.arg("-signkey").arg(&made.key).arg("-out").arg(&made.certificate));
        // It is valid only for the second in which it was made.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        made
    }
}

/// A server that ends TLS and forwards the rest to a local port.
pub struct TlsFront {
    port: u16,
    /// Ends its tasks when dropped.
    _runtime: Runtime,
}

impl TlsFront {
    /// # Panics
    /// When the certificate cannot be used, or no port is free.
    pub fn before(server: u16, with: &Certificate) -> TlsFront {
        let certificates = CertificateDer::pem_file_iter(&with.certificate).expect("its certificate");
        let certificates = certificates.collect::<Result<Vec<_>, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&with.key).expect("its key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(certificates, key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("the key is the certificate's")));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that rejects the certificate is part of the test.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        TlsFront { port, _runtime: runtime }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

//! What other programs need beside the file: a certificate for TLS, and an SSH server with keys of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::common::installed;
use crate::transfer::{CommandLine, Process, Values};

/// Removed, and the server ended, when dropped.
pub struct Peers {
    values: Vec<(&'static str, Option<String>)>,
    _sshd: Option<Process>,
    _directory: TempDir,
}

impl Peers {
    pub fn prepare() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("half-close-bench-").tempdir()?;
        let mut values = vec![("{certificate}", None), ("{ssh}", None)];
        if let Some(openssl) = installed("openssl") {
            let certificate = directory.path().join("certificate.pem").display().to_string();
            let options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost";
            let files = ["-keyout", &certificate, "-out", &certificate];
            make(Command::new(openssl).args(options.split(' ')).args(files))?;
            values[0].1 = Some(certificate);
        }
        let sshd = start_sshd(directory.path())?;
        if sshd.is_some() {
            values[1].1 = Some(directory.path().join("ssh_config").display().to_string());
        }
        Ok(Self { values, _sshd: sshd, _directory: directory })
    }

    /// What `{certificate}` and `{ssh}` stand for in a command, if it is there.
    pub fn values(&self) -> &Values {
        &self.values
    }
}

/// Starts an SSH server on a free port, and writes the configuration of its clients to `ssh_config`. `None` if a program is
/// not installed.
fn start_sshd(directory: &Path) -> Result<Option<Process>> {
    let (Some(keygen), Some(_)) = (installed("ssh-keygen"), installed("sshd")) else { return Ok(None) };
    let path = directory.display();
    for key in ["host_key", "user_key"] {
        make(Command::new(&keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(directory.join(key)))?;
    }
    let server = format!(
        "ListenAddress 127.0.0.1\nHostKey {path}/host_key\nAuthorizedKeysFile {path}/user_key.pub\nPidFile none\n\
         StrictModes no\nUsePAM no\nLogLevel QUIET\nSubsystem sftp internal-sftp\nCiphers aes128-gcm@openssh.com\n"
    );
    fs::write(directory.join("sshd_config"), server)?;
    // For its separation of privileges; systemd makes it where the service runs. Other users don't need it.
    let _ = fs::create_dir_all("/run/sshd");
    let sshd = CommandLine::parse(&format!("sshd -D -e -p {{port}} -f {path}/sshd_config"), &[])?;
    let (process, port) = sshd.context("it is installed")?.listen(directory, directory)?;
    let client = format!(
        "Host peer\nHostName 127.0.0.1\nPort {port}\nIdentityFile {path}/user_key\nIdentitiesOnly yes\nBatchMode yes\n\
         StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\nCiphers aes128-gcm@openssh.com\n"
    );
    fs::write(directory.join("ssh_config"), client)?;
    Ok(Some(process))
}

fn make(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("could not run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(())
}

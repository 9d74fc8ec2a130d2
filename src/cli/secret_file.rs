//! Secrets that the service shows once. Owns where they go: onto the screen, or into a file that is made before the secret is,
//! so that none is lost for want of a place, and that its owner alone reads.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use anyhow::Context;

/// A new file that waits for its secret. Dropping it without one removes it.
pub struct SecretFile {
    path: PathBuf,
    file: File,
    is_written: bool,
}

impl SecretFile {
    /// Makes the file, if one is asked for. One that is there is left alone.
    pub fn make(path: Option<PathBuf>) -> anyhow::Result<Option<Self>> {
        let Some(path) = path else { return Ok(None) };
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = made.with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Some(Self {
            path,
            file,
            is_written: false,
        }))
    }

    fn write(&mut self, secret: &str) -> std::io::Result<()> {
        writeln!(self.file, "{secret}")?;
        self.file.sync_all()?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if !self.is_written {
            // It was made here, and holds nothing or half of something.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes the secret out of an answer and into the file, if there is one. What to print in its place; empty if the answer has
/// no secret.
pub fn keep(secret: &mut String, file: Option<SecretFile>) -> anyhow::Result<String> {
    if secret.is_empty() {
        if file.is_some() {
            anstream::eprintln!(
                "note: nothing is saved, because the answer holds no secret: the service keeps what HeyGen made"
            );
        }
        return Ok(String::new());
    }
    let Some(mut file) = file else {
        return Ok(format!("{secret}   (shown this once)"));
    };
    let written = file.write(&std::mem::take(secret));
    written.with_context(|| {
        format!(
            "the secret exists, but {} cannot be written, so it is lost: make another",
            file.path.display()
        )
    })?;
    Ok(format!("in {}", file.path.display()))
}

use std::path::PathBuf;
pub fn folder(model: &str) -> anyhow::Result<PathBuf> {
    Ok(model.into())
}

//! The engine by itself, for tools that watch each of its instructions: `engine CONFIG.json`, with the configuration as
//! Python resolves it. Prints where it listens, and ends when its standard input does.

use std::io::{self, Read};

use forebay_runtime::Engine;

fn main() -> io::Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: engine CONFIG.json"))?;
    let config = serde_json::from_slice(&std::fs::read(path)?)?;
    let engine = Engine::start(config).map_err(|e| io::Error::other(e.to_string()))?;
    println!("{}", engine.listeners()[0]);
    io::stdin().read_to_end(&mut Vec::new())?;
    engine.stop();
    Ok(())
}

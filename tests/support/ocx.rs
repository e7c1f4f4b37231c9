//! `ocx serve` as a process of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

/// The process. Ends with the test.
pub struct Ocx {
    child: Child,
    pub address: SocketAddr,
    pub config: PathBuf,
}

impl Ocx {
    pub fn serve(dir: &Path, config: &Value) -> Self {
        Self::serve_by(dir, config, Command::new(env!("CARGO_BIN_EXE_ocx")))
    }

    /// The same, by a command that leads to the program.
    pub fn serve_by(dir: &Path, config: &Value, command: Command) -> Self {
        let log = fs::File::create(dir.join("ocx.log")).unwrap();
        Self::serve_unread(dir, config, command, log.into())
    }

    /// The same, with a log of the caller's choice.
    pub fn serve_unread(dir: &Path, config: &Value, mut command: Command, log: Stdio) -> Self {
        let path = dir.join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        command.args(["serve", "--port", "0"]).env("OPENCODEX_HOME", dir);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        let address = first.trim().rsplit("http://").next().unwrap().parse().unwrap();
        Self { child, address, config: path }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a service manager does, and waits for that.
    pub fn terminated(&mut self) -> std::process::ExitStatus {
        let pid = self.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// A GET over a plain socket: body only.
    pub fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.address
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub fn metric(&self, name: &str) -> f64 {
        self.get("/metrics")
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }
}

impl Drop for Ocx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a gateway for a response, over a socket of its own, which has the answer to read.
pub fn ask(address: SocketAddr, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        socket,
        "POST /v1/responses HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    socket
}

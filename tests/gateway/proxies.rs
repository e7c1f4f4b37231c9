//! Through proxies, as companies have them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    app::App,
    support::{
        chat,
        upstream::{Reply, Upstream},
    },
};

/// What a proxy was asked, a line each.
type Asked = Arc<Mutex<Vec<String>>>;

async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// An HTTP proxy that demands a password.
async fn http_proxy() -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let seen = Arc::clone(&asked);
    actix_rt::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let head = read_head(&mut socket).await;
            seen.lock().unwrap().push(head.clone());
            if !head.contains("proxy-authorization: Basic dXNlcjpwYXNz\r\n") {
                let _ = socket.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n").await;
                continue;
            }
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let mut upstream = TcpStream::connect(target).await.unwrap();
            socket.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            actix_rt::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut upstream).await;
            });
        }
    });
    (address, asked)
}

/// A SOCKS5 proxy without a password, that resolves names itself.
async fn socks_proxy() -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let seen = Arc::clone(&asked);
    actix_rt::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut greeting = [0; 2];
            socket.read_exact(&mut greeting).await.unwrap();
            let mut methods = vec![0; greeting[1].into()];
            socket.read_exact(&mut methods).await.unwrap();
            socket.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 5];
            socket.read_exact(&mut request).await.unwrap();
            assert_eq!(request[..4], [5, 1, 0, 3], "a name, not an address");
            let mut name = vec![0; request[4].into()];
            socket.read_exact(&mut name).await.unwrap();
            let port = socket.read_u16().await.unwrap();
            let target = format!("{}:{port}", String::from_utf8(name).unwrap());
            seen.lock().unwrap().push(target.clone());
            let mut upstream = TcpStream::connect(target).await.unwrap();
            socket.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            actix_rt::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut upstream).await;
            });
        }
    });
    (address, asked)
}

async fn ask(upstream: &Upstream, proxy: &str) -> (u16, String) {
    let base_url = upstream.base_url().replace("127.0.0.1", "localhost");
    let provider =
        json!({"adapter": "openai-chat", "baseUrl": base_url, "apiKey": "sk-1", "proxy": proxy});
    let app = App::start(&json!({"providers": {"far": provider}})).await;
    let answer = app.post(&json!({"model": "far/m", "input": "x"})).await;
    (answer.status, answer.text())
}

#[actix::test]
async fn a_provider_is_reached_through_its_proxy() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let port = upstream.address.port();
    let (http, asked) = http_proxy().await;
    let (status, text) = ask(&upstream, &format!("http://user:pass@{http}")).await;
    assert_eq!(status, 200, "{text}");
    let head = asked.lock().unwrap()[0].clone();
    assert!(head.starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\n")), "{head}");
    assert!(!head.contains("sk-1"), "the proxy sees no key");

    let (socks, asked) = socks_proxy().await;
    let (status, text) = ask(&upstream, &format!("socks5h://{socks}")).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(asked.lock().unwrap()[0], format!("localhost:{port}"));
    assert_eq!(upstream.asked().len(), 2);
    assert_eq!(upstream.asked()[0].header("proxy-authorization"), None);
}

#[actix::test]
async fn a_proxy_that_refuses_is_told_without_its_password() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let (http, _) = http_proxy().await;
    let (status, text) = ask(&upstream, &format!("http://user:wrong@{http}")).await;
    assert_eq!(status, 502, "{text}");
    assert!(text.contains(&format!("the proxy {http}")) && text.contains("407"), "{text}");
    assert!(!text.contains("wrong"));
    assert_eq!(upstream.asked().len(), 0, "there is no way around it");
}

//! TLS for real: whom we trust, and what is told when we do not. No key is sent to a stranger.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::{Value, json};

use crate::{
    app::App,
    support::{certificates::CertificateAuthority, scratch},
};

async fn ask(port: u16, ca_file: Option<&str>) -> crate::app::Answer {
    let mut config: Value = json!({"providers": {"tls": {"adapter": "openai-chat",
        "baseUrl": format!("https://localhost:{port}/v1"), "apiKey": "sk-tls-canary"}}});
    if let Some(file) = ca_file {
        config["caFile"] = file.into();
    }
    let app = App::start(&config).await;
    app.post(&json!({"model": "tls/m", "input": "x"})).await
}

#[actix::test]
async fn a_private_authority_is_trusted_if_the_config_names_it_and_nobody_else_is() {
    let (ours, theirs) = (CertificateAuthority::new("ours"), CertificateAuthority::new("theirs"));
    let dir = scratch("tls");
    let file = dir.join("ca.pem");
    std::fs::write(&file, &ours.pem).unwrap();
    let file = file.to_str().unwrap();

    let (address, read) = ours.serve("localhost", false).await;
    let answer = ask(address.port(), Some(file)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(read.load(SeqCst) > 0);

    for (authority, name, expired, ca, word) in [
        (&ours, "localhost", false, None, "caFile"),
        (&theirs, "localhost", false, Some(file), "UnknownIssuer"),
        (&ours, "other.example", false, Some(file), "not valid for name"),
        (&ours, "localhost", true, Some(file), "xpired"),
    ] {
        let (address, read) = authority.serve(name, expired).await;
        let answer = ask(address.port(), ca).await;
        let text = answer.text();
        assert_eq!(answer.status, 502, "{text}");
        assert!(text.contains("TLS") && text.contains(word), "{name} {expired}: {text}");
        assert_eq!(read.load(SeqCst), 0, "no key is sent: {name} {expired}");
        assert!(!text.contains("canary"));
    }
}

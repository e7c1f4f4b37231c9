//! `POST /v1/responses/compact` and `compaction_trigger`: a summary, or an error; never an empty
//! history.

use serde_json::{Value, json};

use crate::{
    app::{Answer, App, JSON},
    support::{
        scripted::{Say, Scripted, Wire, text},
        upstream::{Reply, Upstream},
    },
};

async fn compact(app: &App, model: &str) -> Answer {
    let body = json!({"model": model, "instructions": "sys", "tools": [{"type": "function", "name": "f"}],
        "input": [
            {"role": "user", "content": "first wish"},
            {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
            {"role": "user", "content": "second wish"}]});
    app.send("POST /v1/responses/compact", &[JSON], body.to_string().as_bytes()).await
}

#[actix::test]
async fn a_model_summarises_where_no_provider_compacts() {
    for wire in Wire::TRANSLATED {
        let scripted = Scripted::start(|question| {
            assert!(question.said.last().unwrap().contains("Write that summary"));
            vec![text("We did X.")]
        });
        let app =
            App::start(&json!({"providers": {"up": wire.provider(&scripted.upstream)}})).await;
        let answer = compact(&app, &format!("up/{}", wire.thinking_model())).await;
        let output = answer.json()["output"].clone();
        let texts: Vec<&str> = output
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["content"][0]["text"].as_str().unwrap())
            .collect();
        assert_eq!(texts[..2], ["first wish", "second wish"]);
        assert!(texts[2].ends_with("We did X.") && texts.len() == 3, "{texts:?}");
        scripted.assert_rules_kept();
    }
}

#[actix::test]
async fn no_summary_is_an_error_and_never_an_empty_history() {
    for says in [vec![], vec![text("  ")], vec![text("half a summ"), Say::Limit]] {
        for wire in Wire::TRANSLATED {
            let says = says.clone();
            let scripted = Scripted::start(move |_| says.clone());
            let app =
                App::start(&json!({"providers": {"up": wire.provider(&scripted.upstream)}})).await;
            let answer = compact(&app, &format!("up/{}", wire.thinking_model())).await;
            assert_eq!(answer.status, 502, "{wire:?}: {}", answer.text());
            let trigger = json!({"model": "up/m", "stream": true, "input": [
                {"role": "user", "content": "q"}, {"type": "compaction_trigger"}]});
            let answer = app.post(&trigger).await;
            let failed = answer.status == 502 || answer.terminal()["type"] == "response.failed";
            assert!(failed, "{}", answer.text());
            assert!(!answer.text().contains("\"compaction\""), "{}", answer.text());
        }
    }
}

#[actix::test]
async fn a_provider_that_compacts_does_it_itself() {
    let output = json!({"output": [{"type": "compaction", "encrypted_content": "gAAA"}],
        "usage": {"input_tokens": 90, "output_tokens": 7}});
    let answered = output.clone();
    let upstream = Upstream::start(move |asked| match asked.line.as_str() {
        "POST /v1/responses/compact HTTP/1.1" => Reply::json(200, &answered),
        _ => Reply::json(404, &json!({})),
    });
    let mut provider = Wire::Responses.provider(&upstream);
    provider["nativeCompaction"] = true.into();
    let app = App::start(&json!({"providers": {"up": provider}})).await;
    assert_eq!(compact(&app, "up/m").await.json(), output);
    let tokens = |kind: &str| {
        let labels = format!("{{model=\"m\",provider=\"up\",type=\"{kind}\"}}");
        app.metric(&format!("ocx_tokens_total{labels}"))
    };
    assert_eq!((tokens("input"), tokens("output")), (90.0, 7.0));
    assert_eq!(app.metric("ocx_usage_missing_total"), 0.0);
    let sent = upstream.asked()[0].json();
    assert_eq!((sent.get("stream"), &sent["model"]), (None, &json!("m")));
    assert_eq!(sent["input"].as_array().map(Vec::len), Some(4));
}

#[actix::test]
async fn a_relay_that_does_not_compact_is_asked_for_a_summary() {
    let scripted = Scripted::start(|question| {
        assert_eq!(question.tools, Vec::<String>::new());
        vec![text("We did Y.")]
    });
    let provider = Wire::Responses.provider(&scripted.upstream);
    let app = App::start(&json!({"providers": {"up": provider}})).await;
    let trigger = json!({"model": "up/m", "stream": true, "tools": [{"type": "function", "name": "f"}],
        "input": [{"role": "user", "content": "q"}, {"type": "compaction_trigger"}]});
    let first = app.post(&trigger).await.terminal();
    let output = first["response"]["output"].as_array().unwrap().clone();
    assert_eq!((output.len(), &output[0]["type"]), (1, &json!("compaction")));
    // It comes back as the summary that it is, for this provider and for any other.
    let again = json!({"model": "up/m", "stream": true, "input": [output[0], {"role": "user", "content": "next"}]});
    let asked: Vec<Value> = {
        let with_tools = Scripted::start(|_| vec![text("ok")]);
        let provider = Wire::Responses.provider(&with_tools.upstream);
        let app = App::start(&json!({"providers": {"up": provider}})).await;
        app.post(&again).await.terminal();
        with_tools.questions().into_iter().map(|question| question.body).collect()
    };
    assert!(asked[0]["input"][0].to_string().contains("We did Y."), "{}", asked[0]);
}

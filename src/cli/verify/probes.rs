//! The questions. Each is small, and its answer is judged by what came, not by what a list says.

use std::time::{Duration, Instant};

use actix_rt::time::{sleep, timeout};
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use super::{
    Capability, NO_VISION,
    answer::{Answer, Trouble},
};
use crate::cli::{
    gateway::local::Local,
    style::{Mark, plain},
};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the gateway may take to know that its caller has gone.
const CANCEL_WITHIN: Duration = Duration::from_secs(3);
/// How often we look whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest words of a model that are shown, in characters.
const SHOWN: usize = 60;

/// A square of red, 32 by 32 pixels.
const RED: &str = "data:image/png;base64,\
    iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKklEQVR42mN4xiBCU8QwasGoBaMWjFowasGoBaMWjFowasGoBaMWDBULADed6C5N+32+AAAAAElFTkSuQmCC";

/// And one of blue.
const BLUE: &str = "data:image/png;base64,\
    iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAKUlEQVR42mNg0HhGWzRqwagFoxaMWjBqwagFoxaMWjBqwagFoxYMFQsAc584PT5ZcBMAAAAASUVORK5CYII=";

/// A model behind a gateway.
struct Subject<'a> {
    local: &'a Local,
    model: &'a str,
}

/// Asks everything, and tells each thing as it is found.
///
/// # Errors
///
/// When the model answers nothing at all, in words.
pub(super) async fn all(
    local: &Local,
    model: &str,
    tell: impl Fn(&Capability),
) -> Result<Vec<Capability>, String> {
    let subject = Subject { local, model };
    let mut found = Vec::new();
    let mut note = |capability: Capability| {
        tell(&capability);
        found.push(capability);
    };
    let first = subject.ask("Reply with the one word pineapple.", json!({})).await;
    let first =
        first.map_err(|trouble| format!("`{model}` does not answer: {}", trouble.message))?;
    note(text(&first));
    note(usage(&first));
    note(subject.streaming().await);
    let (tool, takes_tools) = subject.tool().await;
    note(tool);
    note(subject.forced_tool(takes_tools).await);
    note(subject.parallel_tools().await);
    note(subject.freeform_tool().await);
    note(subject.image().await);
    note(subject.reasoning().await);
    note(subject.json_schema().await);
    note(subject.cancel().await);
    Ok(found)
}

fn found(name: &'static str, state: Mark, detail: impl Into<String>) -> Capability {
    Capability { name, state, detail: detail.into(), quirk: None }
}

fn yes(name: &'static str, detail: impl Into<String>) -> Capability {
    found(name, Mark::Good, detail)
}

fn no(name: &'static str, detail: impl Into<String>) -> Capability {
    found(name, Mark::Bad, detail)
}

fn unsure(name: &'static str, detail: impl Into<String>) -> Capability {
    found(name, Mark::Doubt, detail)
}

/// There was no answer. If the request was refused, the model belongs into a list of those that are not
/// asked so; what is no refusal says nothing about the model.
fn failed(name: &'static str, trouble: Trouble, quirk: Option<&'static str>) -> Capability {
    let Trouble { message, refuses } = trouble;
    match refuses {
        true => Capability { quirk, ..no(name, plain(&message)) },
        false => unsure(name, plain(&message)),
    }
}

fn shown(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let one_line = plain(&one_line);
    let cut: String = one_line.chars().take(SHOWN).collect();
    if cut.len() < one_line.len() { format!("{cut}…") } else { cut }
}

fn text(answer: &Answer) -> Capability {
    let said = answer.text();
    match said.to_lowercase() {
        told if told.contains("pineapple") => yes("text", "answers"),
        told if told.trim().is_empty() => no("text", "its answer was empty"),
        _ => unsure("text", format!("was asked for one word, and said: {}", shown(&said))),
    }
}

fn usage(answer: &Answer) -> Capability {
    let counts = (answer.count("/input_tokens"), answer.count("/output_tokens"));
    match counts {
        (1.., 1..) => yes("usage", format!("{} tokens in, {} out", counts.0, counts.1)),
        (0, 0) => no("usage", "it does not tell what a call used"),
        _ => unsure("usage", format!("it tells {} tokens in and {} out", counts.0, counts.1)),
    }
}

fn weather() -> Value {
    json!({"type": "function", "name": "get_weather", "description": "The weather in a city, now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
            "required": ["city"], "additionalProperties": false}})
}

/// Whether a call's arguments are what its tool wants.
fn names_a_city(call: &Value) -> bool {
    let arguments = call["arguments"].as_str().unwrap_or_default();
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    arguments["city"].as_str().is_some_and(|city| !city.is_empty())
}

impl Subject<'_> {
    fn body(&self, input: impl Into<Value>, stream: bool, more: Value) -> Value {
        let mut body =
            json!({"model": self.model, "input": input.into(), "stream": stream, "store": false});
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        body
    }

    async fn ask(&self, input: impl Into<Value>, more: Value) -> Result<Answer, Trouble> {
        let body = self.body(input, false, more);
        let asked =
            async { Answer::whole(self.local.post("/v1/responses", &body, PATIENCE).await?).await };
        timeout(PATIENCE, asked).await.map_err(|_| late())?
    }

    async fn streaming(&self) -> Capability {
        const NAME: &str = "streaming";
        let body = self.body("Count from one to twenty, in words.", true, json!({}));
        let began = Instant::now();
        let asked = async {
            let response = self.local.post("/v1/responses", &body, PATIENCE).await?;
            Answer::stream(response, began, |_| false).await
        };
        match timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late())) {
            Err(error) => failed(NAME, error, None),
            Ok(answer) if answer.ends != 1 => {
                no(NAME, format!("{} terminal events instead of one", answer.ends))
            }
            Ok(Answer { pieces, first: Some(first), .. }) if pieces > 1 => {
                yes(NAME, format!("{pieces} pieces, the first after {} ms", first.as_millis()))
            }
            Ok(_) => unsure(NAME, "its answer came all at once"),
        }
    }

    /// Whether it calls a tool and uses its result; and whether it takes tools at all.
    async fn tool(&self) -> (Capability, bool) {
        let question =
            json!({"role": "user", "content": "What is the weather in Paris? Use the tool."});
        match self.ask(json!([question]), json!({"tools": [weather()]})).await {
            Err(error) => (failed("tool", error, None), false),
            Ok(called) => (self.tool_result(question, &called).await, true),
        }
    }

    async fn tool_result(&self, question: Value, called: &Answer) -> Capability {
        const NAME: &str = "tool";
        let Some(call) = called.items("function_call").next() else {
            return no(NAME, format!("it did not call it, and said: {}", shown(&called.text())));
        };
        if !names_a_city(call) {
            return no(
                NAME,
                format!("it called it with {}", shown(&call["arguments"].to_string())),
            );
        }
        let mut history = vec![question];
        history.extend(called.response["output"].as_array().cloned().unwrap_or_default());
        history.push(json!({"type": "function_call_output", "call_id": call["call_id"],
            "output": "7 degrees Celsius, rain"}));
        match self.ask(Value::from(history), json!({"tools": [weather()]})).await {
            Err(error) => no(NAME, format!("its result was refused: {}", error.message)),
            Ok(answer) => {
                let said = answer.text().to_lowercase();
                match ["7", "seven", "rain"].iter().any(|word| said.contains(word)) {
                    true => yes(NAME, "calls it, and uses its result"),
                    false => unsure(NAME, format!("calls it, and then said: {}", shown(&said))),
                }
            }
        }
    }

    async fn forced_tool(&self, takes_tools: bool) -> Capability {
        const NAME: &str = "forced tool";
        // One that refuses tools refuses these, too, whatever the choice.
        let quirk = takes_tools.then_some("autoToolChoiceOnlyModels");
        let choice = json!({"type": "function", "name": "get_weather"});
        let more = json!({"tools": [weather()], "tool_choice": choice});
        match self.ask("Say hello to Paris.", more).await {
            Err(error) => failed(NAME, error, quirk),
            Ok(answer) if answer.items("function_call").any(names_a_city) => yes(NAME, "calls it"),
            Ok(answer) => unsure(NAME, format!("may ignore it: {}", shown(&answer.text()))),
        }
    }

    async fn parallel_tools(&self) -> Capability {
        const NAME: &str = "parallel tools";
        let question = "What is the weather in Paris, and what is it in Rome? Call the tool for both \
                        cities at once, before you say anything.";
        let more = json!({"tools": [weather()], "parallel_tool_calls": true});
        match self.ask(question, more).await {
            Err(error) => failed(NAME, error, None),
            Ok(answer) => {
                match answer.items("function_call").filter(|call| names_a_city(call)).count() {
                    0 => no(NAME, format!("it called none: {}", shown(&answer.text()))),
                    1 => no(NAME, "one call at a time"),
                    calls => yes(NAME, format!("{calls} calls in one answer")),
                }
            }
        }
    }

    async fn freeform_tool(&self) -> Capability {
        const NAME: &str = "freeform tool";
        let tool = json!({"type": "custom", "name": "write_note",
            "description": "Writes a note. Its input is the text of the note itself, as it is.",
            "format": {"type": "text"}});
        let question = "Write the note: milk and bread. Use the tool.";
        match self.ask(question, json!({"tools": [tool]})).await {
            Err(error) => failed(NAME, error, None),
            Ok(answer) => {
                let input =
                    answer.items("custom_tool_call").find_map(|call| call["input"].as_str());
                match input.map(str::to_lowercase) {
                    Some(input) if input.contains("milk") => yes(NAME, "calls it with plain text"),
                    Some(input) => unsure(NAME, format!("called it with: {}", shown(&input))),
                    None => no(NAME, format!("it did not call it: {}", shown(&answer.text()))),
                }
            }
        }
    }

    /// What it says of a square of a colour, and whether it names the colour.
    async fn names(&self, square: &str, names: &[&str]) -> Result<(String, bool), Trouble> {
        let question = json!([{"role": "user", "content": [
            {"type": "input_text", "text": "Which colour fills this image? Answer with one word."},
            {"type": "input_image", "image_url": square}]}]);
        let said = self.ask(question, json!({})).await?.text();
        let told = said.to_lowercase();
        // Whole words: "rendered" names no colour.
        let named = told.split(|c: char| !c.is_alphabetic()).any(|word| names.contains(&word));
        Ok((said, named))
    }

    async fn image(&self) -> Capability {
        const NAME: &str = "image";
        let quirk = Some(NO_VISION);
        let red = match self.names(RED, &["red", "crimson", "scarlet"]).await {
            Err(error) => return failed(NAME, error, quirk),
            Ok((_, true)) => return yes(NAME, "sees it"),
            Ok((said, false)) => said,
        };
        let what = format!("of a red square it said: {}", shown(&red));
        // One wrong word may be an accident, and no word says nothing.
        match self.names(BLUE, &["blue", "azure", "navy"]).await {
            Ok((blue, false)) if !red.trim().is_empty() && !blue.trim().is_empty() => {
                let what = format!("{what}; and of a blue one: {}", shown(&blue));
                Capability { quirk, ..no(NAME, what) }
            }
            _ => unsure(NAME, what),
        }
    }

    async fn reasoning(&self) -> Capability {
        const NAME: &str = "reasoning";
        let question = "Is 2027 a prime number? Think it through, then answer yes or no.";
        let asked = self
            .ask(
                question,
                json!({"reasoning": {"effort": "high", "summary": "auto"},
                "include": ["reasoning.encrypted_content"]}),
            )
            .await;
        let (answer, shows) = match asked {
            // Some take an effort, and show nothing of what they think.
            Err(error) if error.refuses => {
                match self.ask(question, json!({"reasoning": {"effort": "high"}})).await {
                    Err(error) => return self.lower_effort(question, error).await,
                    Ok(answer) => (answer, false),
                }
            }
            Err(error) => return failed(NAME, error, None),
            Ok(answer) => {
                let shows = answer.items("reasoning").next().is_some();
                (answer, shows)
            }
        };
        match (shows, answer.count("/output_tokens_details/reasoning_tokens")) {
            (true, 0) => yes(NAME, "thinks, and shows it"),
            (true, count) => yes(NAME, format!("thinks, shows it, and counts it ({count} tokens)")),
            (false, 0) => unsure(NAME, "takes an effort; no reasoning was seen"),
            (false, count) => yes(NAME, format!("thinks unseen ({count} tokens)")),
        }
    }

    /// High effort was refused: only who refuses a low one, too, takes none.
    async fn lower_effort(&self, question: &str, error: Trouble) -> Capability {
        const NAME: &str = "reasoning";
        if !error.refuses {
            return failed(NAME, error, None);
        }
        match self.ask(question, json!({"reasoning": {"effort": "low"}})).await {
            Err(again) if again.refuses => failed(NAME, error, Some("noReasoningModels")),
            _ => unsure(
                NAME,
                format!("not with high effort (`modelReasoningEfforts`): {}", error.message),
            ),
        }
    }

    async fn json_schema(&self) -> Capability {
        const NAME: &str = "JSON schema";
        let schema = json!({"type": "object", "properties": {"sum": {"type": "integer"}},
            "required": ["sum"], "additionalProperties": false});
        let format =
            json!({"type": "json_schema", "name": "sum", "strict": true, "schema": schema});
        match self.ask("What is 2 + 3?", json!({"text": {"format": format}})).await {
            Err(error) if error.refuses => self.json_at_all(error).await,
            Err(error) => failed(NAME, error, None),
            Ok(answer) => {
                let said = answer.text();
                let value: Value = serde_json::from_str(said.trim()).unwrap_or_default();
                match value["sum"].as_i64() {
                    Some(5) => yes(NAME, "keeps to it"),
                    _ => no(NAME, format!("it said: {}", shown(&said))),
                }
            }
        }
    }

    /// A schema was refused: only who refuses to write JSON, too, takes no format.
    async fn json_at_all(&self, error: Trouble) -> Capability {
        const NAME: &str = "JSON schema";
        let more = json!({"text": {"format": {"type": "json_object"}}});
        match self.ask("What is 2 + 3? Answer as JSON, as {\"sum\": …}.", more).await {
            Err(again) if again.refuses => failed(NAME, error, Some("noResponseFormatModels")),
            _ => no(NAME, format!("JSON, but not by a schema: {}", error.message)),
        }
    }

    /// Leaves an answer in its middle, and asks the gateway whether it knows.
    async fn cancel(&self) -> Capability {
        const NAME: &str = "cancel";
        let body = self.body(
            "Count from one to two thousand, in words, without a pause.",
            true,
            json!({}),
        );
        let began = Instant::now();
        let asked = async {
            let response = self.local.post("/v1/responses", &body, PATIENCE).await?;
            let id = response.head.relayed.iter().find(|(name, _)| name == "x-request-id");
            let id = id.map(|(_, id)| id.clone()).unwrap_or_default();
            Ok((id, Answer::stream(response, began, |answer| answer.pieces > 0).await?))
        };
        let (id, answer) = match timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late())) {
            Err(error) => return failed(NAME, error, None),
            Ok(asked) => asked,
        };
        if answer.ends > 0 {
            return unsure(NAME, "its answer was over before it could be left");
        }
        let escaped: String = byte_serialize(id.as_bytes()).collect();
        let left = Instant::now();
        while left.elapsed() < CANCEL_WITHIN {
            if let Ok(call) = self.local.look(&format!("/api/decisions?id={escaped}")).await {
                let took = left.elapsed().as_millis();
                return match call["outcome"].as_str() {
                    Some("client_cancelled") => {
                        yes(NAME, format!("the provider was let go in {took} ms"))
                    }
                    outcome => unsure(NAME, format!("it ended as {}", outcome.unwrap_or("?"))),
                };
            }
            sleep(LOOK_EVERY).await;
        }
        unsure(NAME, format!("within {} s the gateway did not say so", CANCEL_WITHIN.as_secs()))
    }
}

fn late() -> Trouble {
    format!("no answer within {} s", PATIENCE.as_secs()).into()
}

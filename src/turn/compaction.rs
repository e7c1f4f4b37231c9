//! Compaction: a conversation becomes a summary that a model can go on from.

use crate::model::{LossKind, Message, Part, Prompt, ToolChoice};

/// What the model is asked.
const INSTRUCTION: &str = "\
This conversation is about to be replaced by a summary of it, and another model will go on from the \
summary alone. Write that summary now, as plain text, and call no tool.\n\
\n\
Include: what the user wants, in their own words where the words matter; what was decided and why; \
what was done, with file names, commands and their results; what is still open, and the next step; \
and everything the user asked to be remembered or avoided. Leave out greetings and repetitions.";

/// Turns a question into the request for a summary of it.
pub fn summarise(prompt: &mut Prompt) {
    prompt.tools.clear();
    prompt.tool_choice = ToolChoice::Unstated;
    prompt.parallel_tool_calls = None;
    prompt.output = Default::default();
    prompt.messages.push(Message::User(vec![Part::Text(INSTRUCTION.to_owned())]));
    // A stop text or a limit of the answer is not one of the summary.
    prompt.sampling = Default::default();
    // What the caller wrote asks for something else, and what of it was lost is not asked any more.
    prompt.raw = None;
    for kind in [
        LossKind::HostedTool,
        LossKind::ToolGrammar,
        LossKind::ToolName,
        LossKind::ToolSchema,
        LossKind::Field,
    ] {
        prompt.losses.forget(kind);
    }
}

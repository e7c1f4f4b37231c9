"""The OpenAI SDK against ocx: `openai_sdk.py BASE_URL MODEL`. Raises on the first thing that is wrong."""

import json
import sys

from openai import OpenAI

base_url, model = sys.argv[1:]
client = OpenAI(base_url=base_url, api_key="unused", max_retries=0)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
QUESTION = "What is the weather in Rome?"


def weather(arguments):
    assert json.loads(arguments) == {"city": "Rome"}, arguments
    return "sunny in Rome"


def responses():
    answer = client.responses.create(model=model, input="Say hello.")
    assert answer.output_text == "Hello from the upstream.", answer
    assert answer.usage.total_tokens == 18, answer.usage

    tools = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}]
    history = [{"role": "user", "content": QUESTION}]
    text = ""
    for _ in range(2):
        deltas = []
        with client.responses.stream(
            model=model, input=history, tools=tools, reasoning={"effort": "medium", "summary": "auto"}
        ) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    deltas.append(event.delta)
            final = stream.get_final_response()
        text = final.output_text
        assert "".join(deltas) == text, (deltas, text)
        # What came goes back as it is, signatures and all.
        history += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in final.output]
        for item in final.output:
            if item.type == "function_call":
                output = weather(item.arguments)
                history.append({"type": "function_call_output", "call_id": item.call_id, "output": output})
    assert text == "It is sunny in Rome.", text


def chat_completions():
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Say hello."}])
    assert answer.choices[0].message.content == "Hello from the upstream.", answer
    assert answer.usage.prompt_tokens == 11, answer.usage

    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
    messages = [{"role": "user", "content": QUESTION}]
    for _ in range(2):
        with client.chat.completions.stream(
            model=model, messages=messages, tools=tools, stream_options={"include_usage": True}
        ) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        message = final.choices[0].message
        assert final.usage.completion_tokens == 7, final
        answered = {"role": "assistant", "content": message.content}
        reasoning = getattr(message, "reasoning_content", None)
        if reasoning:
            answered["reasoning_content"] = reasoning
        calls = message.tool_calls or []
        if calls:
            assert final.choices[0].finish_reason == "tool_calls", final
            answered["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}}
                for c in calls
            ]
        messages.append(answered)
        for c in calls:
            messages.append({"role": "tool", "tool_call_id": c.id, "content": weather(c.function.arguments)})
    assert messages[-1]["content"] == "It is sunny in Rome.", messages[-1]


def models():
    assert model in [entry.id for entry in client.models.list()], "the model is listed"


for check in (responses, chat_completions, models):
    check()
print("ok")

"""The Anthropic SDK against ocx: `anthropic_sdk.py BASE_URL MODEL`. Raises on the first thing that is wrong."""

import sys

from anthropic import Anthropic

base_url, model = sys.argv[1:]
client = Anthropic(base_url=base_url.removesuffix("/v1"), api_key="unused", max_retries=0)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"name": "get_weather", "description": "Tells the weather.", "input_schema": SCHEMA}]


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


answer = client.messages.create(
    model=model, max_tokens=1000, system="Be brief.", messages=[{"role": "user", "content": "Say hello."}]
)
assert text_of(answer) == "Hello from the upstream.", answer
assert answer.stop_reason == "end_turn", answer
# Input in Anthropic's sense leaves cached tokens out.
assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == 11, answer.usage

messages = [{"role": "user", "content": "What is the weather in Rome?"}]
for _ in range(2):
    with client.messages.stream(
        model=model,
        max_tokens=20_000,
        thinking={"type": "enabled", "budget_tokens": 4096},
        tools=TOOLS,
        messages=messages,
    ) as stream:
        for _ in stream:
            pass
        message = stream.get_final_message()
    messages.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]})
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "sunny in Rome"}
        for block in message.content
        if block.type == "tool_use" and block.input == {"city": "Rome"}
    ]
    if results:
        assert message.stop_reason == "tool_use", message
        messages.append({"role": "user", "content": results})
assert text_of(message) == "It is sunny in Rome.", message

count = client.messages.count_tokens(model=model, messages=[{"role": "user", "content": "Say hello."}])
assert 0 < count.input_tokens < 100, count
print("ok")

"""The OpenAI Agents SDK against ocx: `agents_sdk.py BASE_URL MODEL`. Raises on the first thing that is wrong."""

import asyncio
import sys

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

base_url, model = sys.argv[1:]
set_tracing_disabled(True)
client = AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0)


@function_tool
def get_weather(city: str) -> str:
    """Tells the weather."""
    assert city == "Rome", city
    return "sunny in Rome"


async def main():
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        agent = Agent(
            name="Weather", instructions="Answer briefly.", tools=[get_weather], model=kind(model, openai_client=client)
        )
        result = await Runner.run(agent, "What is the weather in Rome?")
        assert result.final_output == "It is sunny in Rome.", result.final_output
        streamed = Runner.run_streamed(agent, "What is the weather in Rome?")
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == "It is sunny in Rome.", streamed.final_output


asyncio.run(main())
print("ok")

// A minimal MCP server over stdio with one tool, for the end-to-end tests.
// Source: modelcontextprotocol.io, lifecycle and tools.
const lines = require('node:readline').createInterface({ input: process.stdin });
const send = (message) => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\n');

const tool = {
  name: 'echo_marker',
  description: 'Echo a marker word.',
  inputSchema: {
    type: 'object',
    properties: { marker: { type: 'string', description: 'word' } },
    required: ['marker'],
  },
};

const answers = {
  initialize: ({ protocolVersion }) => ({
    protocolVersion,
    capabilities: { tools: {} },
    serverInfo: { name: 'srv', version: '1' },
  }),
  'tools/list': () => ({ tools: [tool] }),
  'tools/call': ({ arguments: { marker } }) => ({
    content: [{ type: 'text', text: `echo:${marker}` }],
  }),
  ping: () => ({}),
};

lines.on('line', (line) => {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) return;
  const answer = answers[method];
  if (answer) send({ id, result: answer(params ?? {}) });
  else send({ id, error: { code: -32601, message: `no method ${method}` } });
});

// Prints what the AI SDK makes of an answer: the message of its chat transport, and its error.
// With the id of a chat, it asks for the answer that is under way there, and prints null for none.

import { DefaultChatTransport, readUIMessageStream } from 'ai'

const [url, chatId] = process.argv.slice(2)
let protocol
const transport = new DefaultChatTransport({
  api: url,
  fetch: async (...args) => {
    const response = await fetch(...args)
    protocol = response.headers.get('x-vercel-ai-ui-message-stream')
    return response
  },
})
const stream = chatId
  ? await transport.reconnectToStream({ chatId })
  : await transport.sendMessages({ chatId: 'chat', messages: [], trigger: 'submit-message' })
if (stream === null) {
  console.log('null')
  process.exit()
}
let message
let error = null
const messages = readUIMessageStream({
  stream,
  onError: (failure) => {
    error ??= failure.message
  },
})
// An error in the answer is told by onError. After it, the connection is cut.
try {
  for await (message of messages);
} catch (failure) {
  error ??= failure.message
}
const parts = message.parts.map((part) => [part.type, part.text ?? part.url])
console.log(JSON.stringify({ id: message.id, parts, error, protocol }))

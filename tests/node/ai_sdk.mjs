// Prints what the AI SDK makes of an answer: the message of its chat transport, and its error.

import { DefaultChatTransport, readUIMessageStream } from 'ai'

const [url] = process.argv.slice(2)
let protocol
const transport = new DefaultChatTransport({
  api: url,
  fetch: async (...args) => {
    const response = await fetch(...args)
    protocol = response.headers.get('x-vercel-ai-ui-message-stream')
    return response
  },
})
const stream = await transport.sendMessages({
  chatId: 'chat',
  messages: [],
  trigger: 'submit-message',
})
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

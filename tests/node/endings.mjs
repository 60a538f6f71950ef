// Prints what a client of one answer makes of each ending: [client, ending, outcome] in JSON.

import { DefaultChatTransport, readUIMessageStream } from 'ai'
import OpenAI from 'openai'

const [url] = process.argv.slice(2)
const endings = ['clean', 'cut', '204', '503']

// A client resolves with what it has read of a complete answer, and rejects with its error.
const clients = {
  async fetch(address) {
    const response = await fetch(address, { method: 'POST' })
    if (response.body === null) return `${response.status}, no body`
    if (!response.ok) return `${response.status}`
    let text = ''
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) text += chunk
    return text.includes('hello') ? 'whole' : text
  },

  async openai(address) {
    const openai = new OpenAI({
      apiKey: 'none',
      // The address without the path that the client adds.
      baseURL: 'http://unused',
      fetch: (_, options) => fetch(address, options),
    })
    const stream = await openai.chat.completions.create({ model: 'm', messages: [], stream: true })
    let text = ''
    for await (const chunk of stream) text += chunk.choices[0].delta.content
    return text === 'hello' ? 'whole' : text
  },

  async ai(address) {
    const transport = new DefaultChatTransport({ api: address })
    const stream = await transport.sendMessages({
      chatId: 'chat',
      messages: [],
      trigger: 'submit-message',
    })
    let message
    let error
    for await (message of readUIMessageStream({ stream, onError: (e) => (error ??= e) }));
    if (error) throw error
    return message?.parts.at(-1).text === 'hello' ? 'whole' : `${message?.parts.length ?? 'no'} parts`
  },
}

const outcomes = []
for (const [name, client] of Object.entries(clients))
  for (const ending of endings)
    outcomes.push(
      client(`${url}/${name}/${ending}`).then(
        (outcome) => [name, ending, outcome],
        (error) => [name, ending, `error: ${error.message}`],
      ),
    )
console.log(JSON.stringify(await Promise.all(outcomes)))

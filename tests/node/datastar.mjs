// Prints what Datastar's own SDK sends for each call in the first argument.
//
// In:  [[method, ...arguments], ...]
// Out: [text of the event stream, ...]

import { ServerSentEventGenerator } from '@starfederation/datastar-sdk/web'

const texts = []
for (const [method, ...args] of JSON.parse(process.argv[2])) {
  const response = ServerSentEventGenerator.stream((stream) => void stream[method](...args))
  texts.push(await response.text())
}
console.log(JSON.stringify(texts))

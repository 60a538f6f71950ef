// Answers each line with what npm's eventsource-parser finds in its streams.
//
// In:  [[base64, ...], ...]: for each stream the pieces that it comes in
// Out: [[["event", {...}] or ["comment", text] or ["retry", text] or ["error", text], ...], ...]

import readline from 'node:readline'
import { createParser } from 'eventsource-parser'

function parse(pieces) {
  const found = []
  const parser = createParser({
    onEvent: (event) => found.push(['event', event]),
    onComment: (comment) => found.push(['comment', comment]),
    // As text: JSON has no infinity, which is what many digits give.
    onRetry: (retry) => found.push(['retry', String(retry)]),
    onError: (error) => found.push(['error', error.message]),
  })
  const decoder = new TextDecoder()
  for (const piece of pieces) {
    parser.feed(decoder.decode(Buffer.from(piece, 'base64'), { stream: true }))
  }
  return found
}

readline
  .createInterface({ input: process.stdin })
  .on('line', (line) => console.log(JSON.stringify(JSON.parse(line).map(parse))))

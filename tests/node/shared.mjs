// Answers each line with what js/ssestream.js makes of it.
//
// In:  {"parse": [[base64, ...], ...]}: for each stream the pieces that it comes in
// Out: [{"blocks": [[type, data, id], ...], "retry": number or null}, ...]
//
// In:  {"visit": url, "options": {...}, "tokens": [...], "abortAfter": events, "random": number,
//       "abortIn": milliseconds}
// Out: {"got": [[type, data, id, origin], ...], "said": [[event, state], ...], "reasons": [...],
//       "opened": when first, ...},
//      when the source has closed

import readline from 'node:readline'
import { EventStreamParser, SharedEventSource } from '../../js/ssestream.js'

function parse(pieces) {
  const parser = new EventStreamParser()
  const blocks = pieces.flatMap((piece) => parser.feed(Buffer.from(piece, 'base64')))
  return { blocks, retry: parser.retry }
}

const { random } = Math

function visit({ visit: url, options, tokens, abortAfter, random: fixed, abortIn }) {
  Math.random = fixed === undefined ? random : () => fixed
  const abort = new AbortController()
  const token = () => {
    const next = tokens.shift()
    if (next === 'fail') throw new Error('no token')
    return Promise.resolve(next)
  }
  const all = { ...options, signal: abort.signal, ...(tokens && { token }) }
  const source = new SharedEventSource(url, all)
  const [got, said, reasons] = [[], [], []]
  return new Promise((done) => {
    let opened
    const end = () =>
      done({ got, said, reasons, opened, reason: source.reason, id: source.lastEventId })
    for (const type of ['message', 'close', 'done'])
      source.addEventListener(type, (e) => {
        got.push([e.type, e.data, e.lastEventId, e.origin])
        if (got.length === abortAfter) abort.abort()
        // An event comes before the source is closed.
        setTimeout(() => source.readyState === source.CLOSED && end())
      })
    source.onopen = () => {
      opened ??= Date.now()
      said.push(['open', source.state])
    }
    const stop = () => {
      abort.abort()
      end()
    }
    if (abortIn) setTimeout(stop, abortIn)
    source.onerror = () => {
      said.push(['error', source.state])
      reasons.push(source.reason)
      if (source.readyState === SharedEventSource.CLOSED) end()
    }
  })
}

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const asked = JSON.parse(line)
  const answer = asked.parse ? asked.parse.map(parse) : await visit(asked)
  console.log(JSON.stringify(answer))
})

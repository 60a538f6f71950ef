// Answers each line with the bytes that npm's ssestream makes of its messages.
//
// In:  {"messages": [...]}, or {"sources": [...]} for what JSON cannot say
// Out: [{"frame": base64} or {"error": text}, ...]

'use strict'
const readline = require('readline')
const { Writable } = require('stream')
const vm = require('vm')
const SseStream = require('ssestream').default

const OK = ':ok\n\n'

function encode(message) {
  return new Promise((resolve) => {
    const chunks = []
    const destination = new Writable({
      write(chunk, encoding, callback) {
        chunks.push(chunk)
        callback()
      },
    })
    // Each its own, as a message that throws leaves its stream stuck.
    const sse = new SseStream()
    sse.pipe(destination)
    destination.on('finish', () => {
      const written = Buffer.concat(chunks)
      resolve({ frame: written.subarray(OK.length).toString('base64') })
    })
    try {
      sse.write(message)
      sse.end()
    } catch (error) {
      resolve({ error: error.message })
    }
  })
}

async function answer(line) {
  const { messages, sources } = JSON.parse(line)
  const all = messages || sources.map((source) => vm.runInThisContext(`(${source})`))
  console.log(JSON.stringify(await Promise.all(all.map(encode))))
}

readline.createInterface({ input: process.stdin }).on('line', answer)

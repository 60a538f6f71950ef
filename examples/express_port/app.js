// node app.js [port]          the port may also come from PORT; 0 takes a free one
const express = require('express')
const SseStream = require('ssestream').default

const app = express()
const INTERVAL = Number(process.env.INTERVAL || 1000)

const today = () => new Date().toISOString().slice(0, 10)

// From 1: the npm package sends no id that is 0.
app.get('/raw', (req, res) => {
  let counter = 1
  res.header('Content-Type', 'text/event-stream')
  const timer = setInterval(() => {
    res.write(`id:${counter++}\nevent:message\ndata:${today()}\n\n`)
  }, INTERVAL)

  res.on('close', () => {
    clearInterval(timer)
    console.log('/raw closed')
  })
})

app.get('/clock', (req, res) => {
  let counter = 1
  const sseStream = new SseStream(req)
  sseStream.pipe(res)
  const pusher = setInterval(() => {
    sseStream.write({
      id: counter++,
      event: 'message',
      retry: 20000,
      data: today(),
    })
  }, INTERVAL)

  res.on('close', () => {
    clearInterval(pusher)
    sseStream.unpipe(res)
    console.log('/clock closed')
  })
})

// Handlers that write between their waits.
const pause = (ms) => new Promise((done) => setTimeout(done, ms))

async function* wordsOf (text) {
  for (const word of text.split(' ')) {
    yield word
    await pause(INTERVAL)
  }
}

const texts = { first: 'it comes word by word' }

app.get('/texts/:id', async (req, res) => {
  const text = texts[req.params.id]
  if (!text) return res.status(404).json({ error: 'no such text' })
  res.writeHead(200, { 'Content-Type': 'text/event-stream' })
  for await (const word of wordsOf(text)) {
    res.write(`data: ${word}\n\n`)
  }
  res.end()
})

app.post('/answers', express.json(), async (req, res) => {
  if (!req.body?.prompt) return res.status(400).json({ error: 'no prompt' })
  const sseStream = new SseStream(req)
  sseStream.pipe(res)
  for await (const word of wordsOf(req.body.prompt)) {
    sseStream.write({ event: 'word', data: { word } })
  }
  sseStream.end({ event: 'done', data: '[DONE]' })
})

app.get('/count', async (req, res) => {
  let gone = false
  res.on('close', () => {
    gone = true
    console.log('/count closed')
  })
  const sseStream = new SseStream(req)
  sseStream.pipe(res)
  for (let counter = 1; !gone; counter++) {
    sseStream.write({ id: counter, data: { counter } })
    await pause(INTERVAL)
  }
})

const port = Number(process.argv[2] ?? process.env.PORT ?? 3000)
const server = app.listen(port, '127.0.0.1', () => {
  console.log(`Listening at: http://127.0.0.1:${server.address().port}`)
})

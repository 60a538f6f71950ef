// npm's ssestream on Express, as its own README has it.

const express = require('express')
const SseStream = require('ssestream').default
const control = require('./control')

const app = express()
const streams = new Set()

app.get('/news', (req, res) => {
    const sseStream = new SseStream(req)
    sseStream.pipe(res)
    streams.add(sseStream)
    res.on('close', () => {
        streams.delete(sseStream)
        sseStream.unpipe(res)
    })
})

control.listen((message) => {
    for (const sseStream of streams) {
        sseStream.write({ data: message })
    }
})
app.listen({ port: control.port, host: '127.0.0.1', backlog: 4096 })

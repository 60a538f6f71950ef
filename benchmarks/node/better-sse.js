// npm's better-sse on Express: a channel and its broadcast.

const express = require('express')
const { createChannel, createSession } = require('better-sse')
const control = require('./control')

const app = express()
const channel = createChannel()

app.get('/news', async (req, res) => {
    channel.register(await createSession(req, res))
})

control.listen((message) => {
    channel.broadcast(message)
})
app.listen({ port: control.port, host: '127.0.0.1', backlog: 4096 })

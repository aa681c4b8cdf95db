// node `ws`, one send for each event and client, without compression: as its documentation shows a broadcast.
'use strict'

const net = require('net')
const { WebSocketServer, WebSocket } = require('ws')

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, backlog: 1024, perMessageDeflate: false })
server.on('connection', (client) => {
  client.on('error', () => client.terminate())
  client.send('ready')
})

function publish(line) {
  for (const client of server.clients) {
    if (client.readyState === WebSocket.OPEN) client.send(line, { binary: false })
  }
}

const inlet = net.createServer((socket) => {
  let begun = Buffer.alloc(0)
  socket.on('data', (data) => {
    const all = begun.length ? Buffer.concat([begun, data]) : data
    let from = 0
    for (let end = all.indexOf(10); end >= 0; end = all.indexOf(10, from)) {
      publish(all.subarray(from, end))
      from = end + 1
    }
    begun = Buffer.from(all.subarray(from))
  })
  socket.on('error', () => {})
})

server.on('listening', () => {
  inlet.listen(0, '127.0.0.1', () => console.log(`${server.address().port} ${inlet.address().port}`))
})

// mqtt.js against the broker. Started by run.py with one argument, JSON:
// {modules, ca, only, endpoints: [{protocol, host, port, path}]}. Prints one JSON line per check.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const WAIT_MS = 20_000
const VERSION_NAMES = { 3: '3.1', 4: '3.1.1', 5: '5' }
const setting = JSON.parse(process.argv[2])
const mqtt = createRequire(join(setting.modules, 'x.js'))('mqtt')
const ca = readFileSync(setting.ca)
const checks = []
let labs = 0

function check (title, { versions = [3, 4, 5], protocols = ['mqtt', 'mqtts', 'ws', 'wss'] }, run) {
  for (const version of versions) {
    for (const protocol of protocols) {
      checks.push({ title: `${title} [${VERSION_NAMES[version]}, ${protocol}]`, version, protocol, run })
    }
  }
}

function within (promise, what) {
  let timer
  const late = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${WAIT_MS} ms`)), WAIT_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

class Client {
  constructor (lab, name, options) {
    const { protocol, host, port, path } = setting.endpoints.find((e) => e.protocol === lab.protocol)
    const version = options.protocolVersion ?? lab.version
    this.name = name
    this.messages = []
    this.waiting = []
    this.inner = mqtt.connect(`${protocol}://${host}:${port}${path}`, {
      protocolVersion: version,
      protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
      clientId: `${lab.prefix}-${name}`,
      reconnectPeriod: 0,
      connectTimeout: WAIT_MS,
      ca,
      ...options
    })
    this.inner.on('error', (error) => { this.error = error })
    this.inner.on('message', (topic, payload, packet) => {
      const { qos, retain, dup, properties } = packet
      const message = { topic, text: payload.toString(), payload, qos, retain, dup, properties }
      const waiter = this.waiting.shift()
      waiter ? waiter(message) : this.messages.push(message)
    })
    this.closed = new Promise((resolve) => this.inner.on('close', resolve))
    this.disconnected = new Promise((resolve) => this.inner.on('disconnect', resolve))
    this.connack = within(new Promise((resolve, reject) => {
      this.inner.on('connect', resolve)
      this.inner.on('error', reject)
      this.inner.on('close', () => reject(new Error(`${name}: closed before CONNACK`)))
    }), `CONNACK for ${name}`)
  }

  async subscribe (filters, options) {
    const granted = await within(this.inner.subscribeAsync(filters, options), `SUBACK for ${this.name}`)
    return granted.map((one) => one.qos)
  }

  publish (topic, payload, options) {
    return within(this.inner.publishAsync(topic, payload, options), `acknowledgement for ${this.name}`)
  }

  receive () {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift())
    return within(new Promise((resolve) => this.waiting.push(resolve)), `message for ${this.name}`)
  }

  async receiveTexts (count) {
    const texts = []
    while (texts.length < count) texts.push((await this.receive()).text)
    return texts
  }

  // The end of the connection without DISCONNECT.
  drop () {
    this.inner.stream.destroy()
    return within(this.closed, `end of ${this.name}`)
  }

  end (options) {
    return within(this.inner.endAsync(false, options), `end of ${this.name}`)
  }
}

class Lab {
  constructor ({ version, protocol }) {
    Object.assign(this, { version, protocol, prefix: `js${process.pid}-${++labs}`, clients: [] })
  }

  topic (rest) {
    return `${this.prefix}/${rest}`
  }

  async client (name = 'c', options = {}) {
    const client = new Client(this, name, options)
    this.clients.push(client)
    client.connackPacket = await client.connack
    return client
  }

  // Options of a client whose session outlives its connection.
  persistent () {
    return { clean: false, ...(this.version === 5 && { properties: { sessionExpiryInterval: 300 } }) }
  }

  async close () {
    for (const { inner } of this.clients) await within(inner.endAsync(true), 'end').catch(() => {})
  }
}

check('qos 0 1 and 2 arrive once and in order', {}, async (lab) => {
  const subscriber = await lab.client('sub')
  const publisher = await lab.client('pub')
  for (const qos of [0, 1, 2]) {
    assert.deepEqual(await subscriber.subscribe(lab.topic(`${qos}`), { qos }), [qos])
    const sent = Array.from({ length: 60 }, (_, number) => `${number}`)
    await Promise.all(sent.map((text) => publisher.publish(lab.topic(`${qos}`), text, { qos })))
    for (const text of sent) {
      const message = await subscriber.receive()
      assert.deepEqual([message.text, message.qos, message.dup], [text, qos, false])
    }
  }
})

check('large payloads', {}, async (lab) => {
  const subscriber = await lab.client('sub')
  await subscriber.subscribe(lab.topic('#'), { qos: 2 })
  const publisher = await lab.client('pub')
  const large = Buffer.alloc(900_000, 'petrel')
  for (const qos of [0, 1, 2]) {
    await publisher.publish(lab.topic('large'), large, { qos })
    assert.ok(large.equals((await subscriber.receive()).payload))
  }
})

check('retained is set, replaced and cleared', {}, async (lab) => {
  const publisher = await lab.client('pub')
  await publisher.publish(lab.topic('r'), 'old', { qos: 1, retain: true })
  await publisher.publish(lab.topic('r'), 'new', { qos: 2, retain: true })
  const subscriber = await lab.client('sub')
  await subscriber.subscribe(lab.topic('+'), { qos: 1 })
  const kept = await subscriber.receive()
  assert.deepEqual([kept.text, kept.retain, kept.qos], ['new', true, 1])
  await publisher.publish(lab.topic('r'), '', { qos: 1, retain: true })
  assert.equal((await subscriber.receive()).retain, false)
  const late = await lab.client('late')
  await late.subscribe(lab.topic('+'), { qos: 1 })
  await publisher.publish(lab.topic('x'), 'end', { qos: 1 })
  assert.equal((await late.receive()).text, 'end')
})

check('will is published when the network breaks, not after DISCONNECT', {}, async (lab) => {
  const watcher = await lab.client('watcher')
  await watcher.subscribe(lab.topic('will/+'), { qos: 2 })
  const will = (text, qos) => ({ will: { topic: lab.topic(`will/${text}`), payload: Buffer.from(text), qos, retain: false } })
  await (await lab.client('calm', will('calm', 1))).end()
  for (const qos of [0, 1, 2]) {
    await (await lab.client('dying', will(`gone ${qos}`, qos))).drop()
    const message = await watcher.receive()
    assert.deepEqual([message.text, message.qos], [`gone ${qos}`, qos])
  }
})

check('session keeps subscriptions and queue in order', {}, async (lab) => {
  const first = await lab.client('sub', lab.persistent())
  await first.subscribe(lab.topic('q'), { qos: 2 })
  await first.end()
  const publisher = await lab.client('pub')
  const sent = Array.from({ length: 50 }, (_, number) => `${number}`)
  for (const text of sent) await publisher.publish(lab.topic('q'), text, { qos: 2 })
  const again = await lab.client('sub', lab.persistent())
  assert.ok(again.connackPacket.sessionPresent || lab.version === 3)
  assert.deepEqual(await again.receiveTexts(50), sent)
})

check('the second connection of a client ends the first', {}, async (lab) => {
  const first = await lab.client('twin')
  const second = await lab.client('twin')
  if (lab.version === 5) {
    assert.equal((await within(first.disconnected, 'DISCONNECT')).reasonCode, 0x8e)
  }
  await within(first.closed, 'end of the first')
  await second.subscribe(lab.topic('x'), { qos: 1 })
  await second.publish(lab.topic('x'), 'alive', { qos: 1 })
  assert.equal((await second.receive()).text, 'alive')
})

check('wildcards and unsubscribe', {}, async (lab) => {
  const client = await lab.client()
  await client.subscribe([lab.topic('a/+'), lab.topic('b/#')], { qos: 1 })
  for (const topic of ['a/x', 'a/x/y', 'b', 'b/x/y', 'c']) {
    await client.publish(lab.topic(topic), topic, { qos: 1 })
  }
  assert.deepEqual(await client.receiveTexts(3), ['a/x', 'b', 'b/x/y'])
  await within(client.inner.unsubscribeAsync(lab.topic('a/+')), 'UNSUBACK')
  await client.publish(lab.topic('a/x'), 'not this', { qos: 1 })
  await client.publish(lab.topic('b'), 'end', { qos: 1 })
  assert.equal((await client.receive()).text, 'end')
})

check('shared subscription gives each message to one member', { versions: [4, 5] }, async (lab) => {
  const members = []
  for (let number = 0; number < 4; number++) {
    members.push(await lab.client(`member${number}`))
    await members[number].subscribe(`$share/group/${lab.topic('jobs')}`, { qos: 1 })
  }
  const publisher = await lab.client('pub')
  const got = []
  const all = new Promise((resolve) => {
    for (const member of members) {
      member.inner.on('message', (_topic, payload) => {
        if (got.push(Number(payload.toString())) === 80) resolve()
      })
    }
  })
  await Promise.all(Array.from({ length: 80 }, (_, n) => publisher.publish(lab.topic('jobs'), `${n}`, { qos: 1 })))
  await within(all, '80 shared messages')
  assert.deepEqual(got.sort((a, b) => a - b), Array.from({ length: 80 }, (_, n) => n))
  assert.ok(members.every((member) => member.messages.length > 0))
})

check('properties, subscription identifiers and answers', { versions: [5] }, async (lab) => {
  const server = await lab.client('server')
  const client = await lab.client('client', { properties: { topicAliasMaximum: 5, receiveMaximum: 3 } })
  await server.subscribe(lab.topic('service'), { qos: 1, properties: { subscriptionIdentifier: 42 } })
  // Not QoS 2: mqtt.js forgets there what a topic alias stands for.
  await client.subscribe(lab.topic('answer'), { qos: 1 })
  const userProperties = { a: ['1', '2'], é: '🐦' }
  for (let number = 0; number < 10; number++) {
    const properties = { responseTopic: lab.topic('answer'), correlationData: Buffer.from([number]), contentType: 't', userProperties, messageExpiryInterval: 100 }
    await client.publish(lab.topic('service'), 'question', { qos: 1, properties })
    const { properties: got } = await server.receive()
    assert.equal(got.subscriptionIdentifier, 42)
    assert.equal(got.contentType, 't')
    assert.ok(got.messageExpiryInterval > 0 && got.messageExpiryInterval <= 100)
    assert.deepEqual({ ...got.userProperties }, userProperties)
    await server.publish(got.responseTopic, 'answer', { qos: 2, properties: { correlationData: got.correlationData } })
    const answer = await client.receive()
    assert.deepEqual([answer.topic, answer.text], [lab.topic('answer'), 'answer'])
    assert.deepEqual([...answer.properties.correlationData], [number])
  }
})

check('topic aliases are used by the client', { versions: [5] }, async (lab) => {
  const subscriber = await lab.client('sub', { properties: { topicAliasMaximum: 10 } })
  await subscriber.subscribe(lab.topic('+'), { qos: 1 })
  const publisher = await lab.client('pub', { autoUseTopicAlias: true, autoAssignTopicAlias: true })
  const sent = Array.from({ length: 40 }, (_, number) => lab.topic(`${number % 4}`))
  for (const topic of sent) await publisher.publish(topic, topic, { qos: 1 })
  for (const topic of sent) {
    const message = await subscriber.receive()
    assert.deepEqual([message.text, message.topic], [topic, topic])
  }
})

check('no local and retain as published', { versions: [5] }, async (lab) => {
  const client = await lab.client()
  const other = await lab.client('other')
  await client.subscribe(lab.topic('x'), { qos: 1, nl: true, rap: true, rh: 2 })
  await client.publish(lab.topic('x'), 'own', { qos: 1, retain: true })
  await other.publish(lab.topic('x'), 'foreign', { qos: 1, retain: true })
  const message = await client.receive()
  assert.deepEqual([message.text, message.retain], ['foreign', true])
  await other.publish(lab.topic('x'), '', { qos: 1, retain: true })
})

check('a delayed will waits', { versions: [5], protocols: ['mqtt', 'ws'] }, async (lab) => {
  const watcher = await lab.client('watcher')
  await watcher.subscribe(lab.topic('will/+'), { qos: 1 })
  for (const [name, willDelayInterval] of [['late', 2], ['soon', 1], ['now', 0]]) {
    const will = { topic: lab.topic(`will/${name}`), payload: Buffer.from(name), qos: 1, properties: { willDelayInterval } }
    await (await lab.client(name, { will, properties: { sessionExpiryInterval: 60 } })).drop()
  }
  assert.deepEqual(await watcher.receiveTexts(3), ['now', 'soon', 'late'])
})

async function run ({ title, version, protocol, run }) {
  const lab = new Lab({ version, protocol })
  const started = performance.now()
  let error
  try {
    await run(lab)
  } catch (caught) {
    error = caught.stack ?? String(caught)
  }
  await lab.close()
  console.log(JSON.stringify({ title, seconds: (performance.now() - started) / 1000, error }))
}

async function work (queue) {
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) await run(next)
}

const queue = checks.filter(({ title }) => title.includes(setting.only))
await Promise.all(Array.from({ length: setting.jobs }, () => work(queue)))
process.exit(0)

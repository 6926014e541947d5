// Starts the suite's origin, the proxy and the suite's client for each profile, and scores what
// comes out by the suite's own rules. Called by scripts/cache-conformance.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'

const [suite, option] = process.argv.slice(2)
const listed = 'tests/cache_conformance.txt'
const kinds = ['required', 'optimal', 'check']
// A checkout of the suite's repository has another layout than the package, and another list of
// tests: it is scored, and compared with nothing.
const isCheckout = existsSync(path.join(suite, 'test-engine'))
const [serverFile, clientFile] = isCheckout
  ? ['test-engine/server/server.mjs', 'test-engine/cli.mjs']
  : ['server/server.mjs', 'cli.mjs']

// Why a test is not passed, by the beginning of its id. A required test without a reason fails the
// run.
const reasons = {
  both: {
    'age-parse-': 'RFC 9111 section 5.1: an Age that is no number is ignored, and of several the ' +
      'first one counts. This edition wants either to be stale; the newer one wants the RFC.',
    'stale-close-': 'What is not served here is answered 502 by the proxy. The test looks for ' +
      'fields that only the origin can set, and it has closed the connection.',
    'conditional-lm-fresh-no-lm': 'RFC 9111 section 4.3.2: If-Modified-Since is before the Date ' +
      'of what is stored, so that the client does not have it.',
    'vary-normalize-lang-select': 'RFC 9111 section 4.1: the two fields do not mean the same, and ' +
      'what is stored was chosen by the first.',
    'partial-store-partial-complete': 'RFC 9111 section 3.4: parts are combined by a strong ' +
      'validator, and the stored one has none. To ask for the rest is to ask twice.',
    'conditional-etag-forward': 'A conditional request fills a cold cache: the handler is asked for ' +
      'the whole response, without conditions.',
    'head-200-': 'A response to a HEAD refreshes the stored one only by a matching validator. The ' +
      'test sends none.',
    'interim-': 'hyper sends no interim response that a service hands it.'
  },
  rfc: {},
  secure: {
    'heuristic-': 'Nothing is kept that does not say for how long it is fresh.',
    'status-': 'Of the statuses that the handler marks as fresh, only those are kept that are no ' +
      'error, and not for one client.',
    'vary-normalize-': 'Preferences count as they are written.',
    'headers-store-': 'What does something to one client alone is not kept.',
    '304-etag-update-response-': 'What does something to one client alone is not kept.',
    'partial-store-partial-': 'Parts are not kept.',
    'other-authorization': 'An answer to a credential is not shared unless the route says so.',
    'other-set-cookie': 'What sets a cookie is not kept.',
    'other-cookie': 'A cookie is a credential.',
    'method-POST': 'An answer to a POST is not kept.'
  }
}

// The target list (RFC 9213) of the proxy in each profile. It is empty unless it is given.
const targeted = {
  rfc: ['CDN-Cache-Control', 'Surrogate-Control'],
  secure: ['CDN-Cache-Control']
}

const { default: suites } = await import(path.resolve(suite, 'tests/index.mjs'))
// The suite for surrogates is appended to this list by the client; its tests are not counted.
const tests = new Map(
  suites.flatMap(({ id: group, tests }) => tests.map((test) => [test.id, { ...test, group }]))
)

const passed = []
for (const profile of ['rfc', 'secure']) {
  // A busy machine stretches the suite's pauses: a test counts if it passes in one of two runs.
  const runs = [await run(profile)]
  const again = isCheckout || option === '--accept' ? [] : lost(profile, verdicts(runs))
  if (again.length > 0) runs.push(await run(profile))
  const found = verdicts(runs)
  report(profile, found)
  for (const [id, verdict] of found) if (verdict === 'pass') passed.push(`${profile} ${id}`)
}
if (isCheckout) process.exit(process.exitCode ?? 0)
if (option === '--accept') {
  writeFileSync(listed, passed.sort().join('\n') + '\n')
  process.exit(0)
}
const gone = readList().filter((line) => !passed.includes(line))
const gained = passed.filter((line) => !readList().includes(line))
for (const line of gained) console.log(`new: ${line}`)
for (const line of gone) console.error(`lost: ${line}`)
console.log(gone.length === 0 ? 'no test that passed is lost' : `${gone.length} tests are lost`)
process.exit(gone.length === 0 ? process.exitCode ?? 0 : 1)

/** Runs the suite once and returns its raw result. */
async function run (profile) {
  const [origin, proxy] = [await freePort(), await freePort()]
  const server = start('node', [serverFile], {
    cwd: suite,
    env: {
      npm_config_protocol: 'http',
      npm_config_port: origin,
      npm_config_pidfile: path.resolve('target/cache-conformance/origin.pid')
    }
  })
  const cache = start(path.resolve('target/debug/examples/reverse_proxy'), [
    '--listen', `127.0.0.1:${proxy}`,
    '--origin', `http://127.0.0.1:${origin}`,
    '--profile', profile,
    // The suite takes the field `Foo` for a list, of which no cache can know by itself.
    '--list-field', 'Foo',
    ...targeted[profile].flatMap((name) => ['--targeted', name])
  ], {})
  try {
    await Promise.all([listening(origin), listening(proxy)])
    const client = start('node', ['--no-warnings', clientFile], {
      cwd: suite,
      env: {
        npm_config_base: `http://127.0.0.1:${proxy}`,
        npm_config_id: '',
        npm_package_config_id: ''
      }
    })
    return JSON.parse(await output(client))
  } finally {
    server.kill()
    cache.kill()
  }
}

function start (command, args, { cwd, env }) {
  const environment = { ...process.env, ...env }
  return spawn(command, args, { cwd, env: environment, stdio: ['ignore', 'pipe', 'inherit'] })
}

async function output (child) {
  let text = ''
  for await (const chunk of child.stdout) text += chunk
  return text
}

function freePort () {
  return new Promise((resolve) => {
    const server = net.createServer()
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

async function listening (port) {
  for (let left = 100; left > 0; left--) {
    const there = await new Promise((resolve) => {
      const socket = net.connect(port, '127.0.0.1')
      socket.once('connect', () => { socket.destroy(); resolve(true) })
      socket.once('error', () => resolve(false))
    })
    if (there) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Error(`nobody listens on port ${port}`)
}

/** Judges each test by the suite's rules; the best of several runs counts. */
function verdicts (runs) {
  const judged = runs.map((result) => {
    const found = new Map()
    for (const id of tests.keys()) if (id in result) judge(id, result, found)
    return found
  })
  const best = new Map(judged[0])
  for (const found of judged) {
    for (const [id, verdict] of found) if (verdict === 'pass') best.set(id, verdict)
  }
  return best
}

function judge (id, result, found) {
  if (found.has(id)) return found.get(id)
  const test = tests.get(id)
  const raw = result[id]
  const missing = (test.depends_on ?? []).some((other) => judge(other, result, found) !== 'pass')
  let verdict
  if (missing) verdict = 'dependency'
  else if (raw === true) verdict = 'pass'
  else if (raw?.[0] === 'Setup') verdict = 'setup'
  else if (raw?.[0] === 'AbortError') verdict = 'harness'
  else verdict = 'fail'
  found.set(id, verdict)
  return verdict
}

function report (profile, found) {
  const groups = new Map()
  const total = tally()
  for (const [id, verdict] of found) {
    const { kind = 'required', group } = tests.get(id)
    if (!groups.has(group)) groups.set(group, tally())
    for (const counts of [groups.get(group), total]) {
      counts[kind].of += 1
      if (verdict === 'pass') counts[kind].pass += 1
    }
  }
  const row = (name, counts) =>
    name.padEnd(20) + kinds.map((kind) => `${counts[kind].pass}/${counts[kind].of}`.padStart(12)).join('')
  console.log(`\n${profile.padEnd(20)}${kinds.map((kind) => kind.padStart(12)).join('')}`)
  for (const [group, counts] of groups) console.log(row(group, counts))
  for (const [id, verdict] of found) {
    const { kind = 'required' } = tests.get(id)
    if (verdict === 'pass' || kind === 'check') continue
    const reason = reasonFor(profile, id)
    console.log(`${kind} ${id}: ${verdict}. ${reason ?? 'Nobody has said why.'}`)
    if (kind === 'required' && reason === undefined) {
      console.error(`${profile} ${id} is required, fails, and nobody has said why`)
      process.exitCode = 1
    }
  }
  const score = kinds.map((kind) => `${kind} ${total[kind].pass}/${total[kind].of}`)
  console.log(`SCORE ${profile} ${score.join(' ')}`)
}

function reasonFor (profile, id) {
  const known = Object.entries({ ...reasons.both, ...reasons[profile] })
  return known.find(([beginning]) => id.startsWith(beginning))?.[1]
}

function tally () {
  return Object.fromEntries(kinds.map((kind) => [kind, { pass: 0, of: 0 }]))
}

function lost (profile, found) {
  return readList().filter((line) => {
    const [of, id] = line.split(' ')
    return of === profile && found.get(id) !== 'pass'
  })
}

function readList () {
  return readFileSync(listed, 'utf8').split('\n').filter((line) => line !== '')
}

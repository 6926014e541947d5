// Runs the suite's origin, the proxy and the suite's client for each profile, and scores the
// results by the suite's rules. Called by scripts/cache-conformance.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'

const [suite, option] = process.argv.slice(2)
const listed = 'tests/cache_conformance.txt'
const kinds = ['required', 'optimal', 'check']
// A checkout of the suite's repository has a different layout and different tests than the package.
// It is scored without a comparison.
const isCheckout = existsSync(path.join(suite, 'test-engine'))
const [serverFile, clientFile] = isCheckout
  ? ['test-engine/server/server.mjs', 'test-engine/cli.mjs']
  : ['server/server.mjs', 'cli.mjs']

// The reasons for failing tests, by prefix of the test id. A required test that fails without a
// reason fails the run.
const reasons = {
  both: {
    'age-parse-': 'RFC 9111 section 5.1: an invalid Age is ignored, and the first of several is ' +
      'used. This version of the suite expects a stale response; the newer one follows the RFC.',
    'stale-close-': 'The proxy responds with 502 if it serves no stale response. The test ' +
      'expects fields that only the origin can set, but the origin has closed the connection.',
    'conditional-lm-fresh-no-lm': 'RFC 9111 section 4.3.2: If-Modified-Since is before the Date ' +
      'of the stored response, so that the client does not have it.',
    'vary-normalize-lang-select': 'RFC 9111 section 4.1: the two fields are not equivalent, and ' +
      'the stored response was selected by the first.',
    'partial-store-partial-complete': 'RFC 9111 section 3.4: combining partial responses needs a ' +
      'strong validator, and the stored one has none. Completing it would take two requests.',
    'conditional-etag-forward': 'A conditional request fills a cold cache: the handler is called ' +
      'for the whole response, without conditions.',
    'head-200-': 'A response to HEAD refreshes a stored response only with a matching validator. ' +
      'The test sends none.',
    'interim-': 'hyper does not send interim responses of a service.'
  },
  rfc: {},
  secure: {
    'heuristic-': 'A response without a freshness lifetime is not stored.',
    'status-': 'Of the statuses with a freshness lifetime, errors and responses for one client ' +
      'are not stored.',
    'vary-normalize-': 'Preferences are compared byte by byte.',
    'headers-store-': 'A response with an effect on one client is not stored.',
    '304-etag-update-response-': 'A response with an effect on one client is not stored.',
    'partial-store-partial-': 'Partial responses are not stored.',
    'other-authorization': 'A response to a credential is shared only if the route allows it.',
    'other-set-cookie': 'A response that sets a cookie is not stored.',
    'other-cookie': 'A cookie is a credential.',
    'method-POST': 'A response to POST is not stored.'
  }
}

// The target list (RFC 9213) of the proxy in each profile. The default list is empty.
const targeted = {
  rfc: ['CDN-Cache-Control', 'Surrogate-Control'],
  secure: ['CDN-Cache-Control']
}

const { default: suites } = await import(path.resolve(suite, 'tests/index.mjs'))
// The client appends the surrogate suite to this list. Its tests are not counted.
const tests = new Map(
  suites.flatMap(({ id: group, tests }) => tests.map((test) => [test.id, { ...test, group }]))
)

const passed = []
for (const profile of ['rfc', 'secure']) {
  // Load distorts the suite's delays: a test passes if it passes in one of two runs.
  const runs = [await run(profile)]
  const again = isCheckout || option === '--accept' ? [] : failingListed(profile, verdicts(runs))
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
const failing = readList().filter((line) => !passed.includes(line))
const gained = passed.filter((line) => !readList().includes(line))
for (const line of gained) console.log(`newly passed: ${line}`)
for (const line of failing) console.error(`failed: ${line}`)
console.log(failing.length === 0 ? 'all listed tests pass' : `${failing.length} listed tests fail`)
process.exit(failing.length === 0 ? process.exitCode ?? 0 : 1)

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
    // The suite uses the field `Foo` as a list, which a cache cannot know.
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
    const isOpen = await new Promise((resolve) => {
      const socket = net.connect(port, '127.0.0.1')
      socket.once('connect', () => { socket.destroy(); resolve(true) })
      socket.once('error', () => resolve(false))
    })
    if (isOpen) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Error(`no listener on port ${port}`)
}

/** Returns the verdict of each test by the suite's rules, the best of several runs. */
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
    console.log(`${kind} ${id}: ${verdict}. ${reason ?? 'No documented reason.'}`)
    if (kind === 'required' && reason === undefined) {
      console.error(`${profile} ${id} is required and fails without a documented reason`)
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

function failingListed (profile, found) {
  return readList().filter((line) => {
    const [of, id] = line.split(' ')
    return of === profile && found.get(id) !== 'pass'
  })
}

function readList () {
  return readFileSync(listed, 'utf8').split('\n').filter((line) => line !== '')
}

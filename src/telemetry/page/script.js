'use strict';
(() => {
  const SECONDS = 900, PERIOD = 1000, PATIENCE = 6000, SEEN = 20, SVG = 'http://www.w3.org/2000/svg';
  const get = (id) => document.getElementById(id);
  const data = { samples: [], next: 0, events: 0, started: 0, last: null, letters: null, lettersOf: '', skew: 0 };
  let token = remembered(), missing = 0, silentSince = 0, told = '', timer = 0, busy = false, chosen = new Set();

  // ---- text: whatever comes from elsewhere becomes text, with what is invisible or turns text made visible
  function plain(text) {
    return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
      (c) => '\\u{' + c.codePointAt(0).toString(16) + '}');
  }
  function put(id, text) {
    const node = get(id), next = plain(text);
    if (node.textContent !== next) node.textContent = next;
  }
  function make(name, options, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(options || {})) {
      if (value === null || value === undefined) continue;
      if (key === 'class') node.className = value; else node.setAttribute(key, value);
    }
    node.append(...children.map((child) => typeof child === 'string' ? plain(child) : child));
    return node;
  }
  function drawn(name, attributes) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }
  const whole = (n) => Math.round(n).toLocaleString('en');
  const short = (n) => n >= 1e6 ? (n / 1e6).toFixed(n >= 1e7 ? 0 : 1) + ' M' : n >= 100 || Number.isInteger(n) ? whole(n) : n.toFixed(1);
  const plural = (n, one, more) => whole(n) + ' ' + (n === 1 ? one : more);
  function bytes(n) {
    const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    while (n >= 1024 && unit < 4) { n /= 1024; unit += 1; }
    return (unit === 0 || n >= 100 ? whole(n) : n.toFixed(1)) + ' ' + units[unit];
  }
  function span(s) {
    if (s < 0.0005) return '0 ms';
    if (s < 1) return (s < 0.01 ? String(+(s * 1000).toFixed(1)) : Math.round(s * 1000)) + ' ms';
    if (s < 60) return (s < 10 ? String(+s.toFixed(1)) : Math.round(s)) + ' s';
    if (s < 3600) return Math.floor(s / 60) + ' min' + (s % 60 >= 1 ? ' ' + Math.floor(s % 60) + ' s' : '');
    if (s < 172800) return Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min';
    return Math.floor(s / 86400) + ' days';
  }
  const ago = (s) => s < 60 ? Math.floor(s) + ' s' : span(s);
  const two = (n) => String(n).padStart(2, '0');
  function clock(ms, withDay) {
    const d = new Date(ms), time = two(d.getHours()) + ':' + two(d.getMinutes()) + ':' + two(d.getSeconds());
    return withDay && d.toDateString() !== new Date().toDateString() ? two(d.getMonth() + 1) + '-' + two(d.getDate()) + ' ' + time : time;
  }

  // ---- signs: a shape for each tone, so that colour is never alone
  const SHAPES = {
    good: ['M12 2a10 10 0 100 20 10 10 0 000-20z', 'M7.5 12.5l3 3 6-7'],
    wait: ['M12 2.5L22.5 21h-21z', 'M12 9.5v5m0 3v.2'],
    bad: ['M8 2h8l6 6v8l-6 6H8l-6-6V8z', 'M12 7v6.5m0 3v.2'],
    none: ['M12 2a10 10 0 100 20 10 10 0 000-20z', 'M7.5 12h9'],
  };
  function sign(tone) {
    const [outer, inner] = SHAPES[tone], svg = drawn('svg', { viewBox: '0 0 24 24', 'aria-hidden': 'true' });
    svg.append(drawn('path', { d: outer, fill: 'currentColor' }),
      drawn('path', { d: inner, fill: 'none', stroke: 'Canvas', 'stroke-width': 2.4, 'stroke-linecap': 'round', 'stroke-linejoin': 'round' }));
    return svg;
  }
  function toneOf(state, good) {
    if (state === 'stalled' || state === 'stopped' || state === 'retrying') return 'bad';
    if (state === 'standing by' || state === 'starting' || state === 'draining') return 'wait';
    return good ? 'good' : 'wait';
  }

  // ---- asking
  function remembered() { try { return sessionStorage.getItem('walpost-token') || ''; } catch { return ''; } }
  function remember(value) { token = value; try { sessionStorage.setItem('walpost-token', value); } catch { /* this tab only, then */ } }
  async function ask(path, body) {
    const control = new AbortController(), limit = setTimeout(() => control.abort(), body ? 30000 : PATIENCE);
    const headers = token ? { Authorization: 'Bearer ' + token } : {};
    const options = { headers, signal: control.signal, cache: 'no-store', credentials: 'omit', redirect: 'error' };
    if (body) Object.assign(options, { method: 'POST', body: JSON.stringify(body), headers: { ...headers, 'Content-Type': 'application/json' } });
    try {
      const response = await fetch(path, options);
      const answer = await response.json().catch(() => ({ error: 'HTTP ' + response.status }));
      return { status: response.status, answer };
    } finally { clearTimeout(limit); }
  }
  async function poll() {
    if (busy) return;
    busy = true;
    clearTimeout(timer);
    try {
      const { status, answer } = await ask('/api/state?since=' + data.next + '&events=' + data.events);
      if (status === 200) {
        if (data.started && data.started !== answer.started_ms) {
          // Another process: what it says is taken from its beginning.
          Object.assign(data, { samples: [], next: 0, events: 0, started: 0, lettersOf: '' });
          busy = false;
          return void poll();
        }
        gate(null);
        take(answer);
      } else gate(status, answer);
      reached();
    } catch { unreached(); }
    busy = false;
    if (!document.hidden) timer = setTimeout(poll, get('gate').hidden ? PERIOD : 10 * PERIOD);
  }
  function reached() {
    missing = 0; silentSince = 0;
    document.body.classList.remove('stale');
    get('link').dataset.tone = 'good';
    put('link-text', get('gate').hidden ? 'live' : 'it answers');
  }
  function unreached() {
    missing += 1;
    silentSince = silentSince || Date.now();
    // One lost answer is no news.
    if (missing < 2) return;
    document.body.classList.add('stale');
    get('link').dataset.tone = 'bad';
    put('link-text', 'the relay does not answer since ' + clock(silentSince));
    if (data.last) put('state-since', 'as it was at ' + clock(silentSince, true));
    document.title = '✕ no answer · Walpost';
    say('the relay does not answer');
  }
  function say(text) {
    if (told === text) return;
    told = text;
    put('announce', text);
  }
  function gate(status, answer) {
    const shut = status !== null;
    get('gate').hidden = !shut;
    get('content').hidden = shut;
    if (!shut) return;
    const asks = status === 401;
    get('gate-row').hidden = !asks;
    put('gate-title', asks ? 'This relay asks for its token' : 'This relay does not show itself here');
    if (asks) put('gate-error', token ? 'The token is wrong.' : '');
    else { put('gate-text', answer.advice || ''); put('gate-error', answer.error || ''); }
    document.title = 'Walpost';
  }

  // ---- showing
  function take(answer) {
    data.last = answer;
    data.started = answer.started_ms;
    data.skew = Date.now() - answer.now_ms;
    data.samples.push(...answer.samples);
    data.samples.splice(0, Math.max(0, data.samples.length - SECONDS));
    data.next = answer.next;
    data.events = answer.events_version;
    showState(answer);
    showTiles(answer);
    showPlots();
    if (answer.events) showEvents(answer.events);
    showAbout(answer);
    askForLetters(answer);
  }
  function showState(it) {
    const tone = it.filling ? 'bad' : toneOf(it.state, it.good);
    const word = it.state + (it.stage ? ': ' + it.stage : '') + (it.filling ? ', and the slot is nearly lost' : '');
    if (get('state-word').textContent !== word) {
      put('state-word', word);
      get('state').dataset.tone = tone;
      get('state-icon').replaceChildren(sign(tone));
    }
    put('state-since', 'since ' + clock(Date.now() - it.since_seconds * 1000, true) + ', for ' + ago(it.since_seconds));
    get('reason').hidden = !it.reason;
    put('reason', it.reason || '');
    get('filling').hidden = !it.filling;
    put('filling', it.filling ? it.filling.reason : '');
    get('advice').hidden = !it.advice && !it.filling;
    put('advice-text', it.advice || '');
    put('filling-advice', it.filling ? it.filling.advice : '');
    put('name', it.about.slot ? 'slot ' + it.about.slot : '');
    document.title = { good: '●', wait: '▲', bad: '■', none: '○' }[tone] + ' ' + word + ' · ' + (it.about.slot || 'Walpost');
    say('The relay is ' + word);
  }
  function tint(id, tone) {
    const tile = get(id).closest('.tile');
    if (tile.dataset.tone === tone) return;
    tile.dataset.tone = tone;
    tile.querySelectorAll('dt svg').forEach((old) => old.remove());
    if (tone) tile.querySelector('dt').prepend(sign(tone));
  }
  function showTiles(it) {
    const reads = it.lag_seconds !== null, sees = it.slot && it.slot.seen_seconds_ago <= SEEN;
    put('rate', short(it.rate));
    put('published', whole(it.published) + ' since the start');
    put('lag', reads ? span(it.lag_seconds) : 'unknown');
    put('lag-bytes', sees && it.slot.lag_bytes !== null ? bytes(it.slot.lag_bytes) + ' of log behind' : reads ? '' : 'the log is not read');
    tint('lag', reads && it.lag_seconds >= 10 ? 'wait' : '');
    put('p50', it.latency.p50 === null ? '–' : '≈ ' + span(it.latency.p50));
    put('p99', it.latency.p99 === null ? 'no records' : '99 % within ≈ ' + span(it.latency.p99));
    // What was on its way when an end failed is read again, and is on its way no more.
    const sends = it.state === 'streaming' || it.state === 'stalled' || it.state === 'draining';
    put('flight', sends ? whole(it.in_flight) : '–');
    put('flight-bytes', sends ? bytes(it.in_flight_bytes) : 'nothing is being sent');
    showRoom(it);
    const open = it.dead_letters;
    put('letters-count', open === null ? '–' : open >= 10000 ? '10,000+' : whole(open));
    const sub = [it.parked ? whole(it.parked) + ' parked' : '', it.replayed ? whole(it.replayed) + ' replayed' : ''].filter(Boolean).join(', ');
    put('letters-sub', open === null ? 'unknown, or not kept' : sub || 'none since the start');
    tint('letters-count', open ? 'wait' : '');
  }
  function showRoom(it) {
    const slot = it.slot, forecast = it.forecast;
    if (!slot) { put('kept', '–'); put('forecast', 'not seen yet'); return tint('kept', ''); }
    put('kept', slot.retained_bytes === null ? '–' : bytes(slot.retained_bytes));
    let text, tone = '';
    if (slot.seen_seconds_ago > SEEN) {
      // Whatever was so then is no forecast.
      text = 'seen ' + ago(slot.seen_seconds_ago) + ' ago, unknown since' + (slot.safe_bytes === null ? '' : '; ' + bytes(slot.safe_bytes) + ' were left');
    } else if (slot.wal_status === 'lost') { text = 'the slot is lost'; tone = 'bad'; }
    else if (slot.safe_bytes === null) text = 'no limit is set: the disk is the limit';
    else {
      text = bytes(slot.safe_bytes) + ' left until the slot is lost';
      if (forecast.lost_in_seconds !== null && forecast.lost_in_seconds < 604800) {
        text += ', in ' + span(forecast.lost_in_seconds) + ' if it goes on so';
        tone = forecast.lost_in_seconds < 3600 ? 'bad' : forecast.lost_in_seconds < 86400 ? 'wait' : '';
      } else if (forecast.retained_per_second !== null && !it.filling) text = bytes(slot.safe_bytes) + ' left, no loss in sight';
    }
    if (it.filling) tone = 'bad';
    put('forecast', text);
    tint('kept', tone);
  }

  // ---- plots
  const PLOTS = [
    { id: 'rate', title: 'Throughput', lines: [1], unit: (n) => short(n) + '/s', least: 10 },
    { id: 'lag', title: 'Lag', lines: [2], unit: span, least: 1 },
    { id: 'latency', title: 'Latency', note: ' median, dashed: 99 % within', lines: [3, 4], unit: span, least: 0.05 },
  ];
  function prepare() {
    for (const plot of PLOTS) {
      plot.svg = drawn('svg', { viewBox: '0 0 ' + SECONDS + ' 100', preserveAspectRatio: 'none', role: 'img', 'aria-label': plot.title });
      plot.ill = drawn('path', { class: 'ill' });
      plot.grid = drawn('path', { class: 'grid', d: 'M0 50H' + SECONDS + 'M300 0V100M600 0V100' });
      plot.area = drawn('path', { class: 'area' });
      plot.paths = plot.lines.map((_, n) => drawn('path', { class: n ? 'curve second' : 'curve' }));
      plot.hair = drawn('path', { class: 'hair' });
      plot.svg.append(plot.ill, plot.grid, plot.area, ...plot.paths.slice().reverse(), plot.hair);
      plot.top = make('span', {}, ''); plot.middle = make('span', {}, '');
      const caption = make('figcaption', {}, make('b', {}, plot.title), plot.note || '');
      get('plots').append(make('figure', { class: 'plot', id: 'plot-' + plot.id }, caption, plot.svg,
        make('div', { class: 'scale', 'aria-hidden': 'true' }, plot.top, plot.middle, make('span', {}, '0')),
        make('div', { class: 'times', 'aria-hidden': 'true' }, ...['15 min ago', '10', '5', 'now'].map((text) => make('span', {}, text)))));
      plot.svg.addEventListener('pointermove', (event) => point(event, plot));
      plot.svg.addEventListener('pointerleave', unpoint);
    }
  }
  function ceiling(most, least, isTime) {
    if (most <= least) return least;
    // Times above a minute are read in minutes and hours.
    if (isTime && most > 60) return [120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400].find((n) => n >= most) || most;
    const power = 10 ** Math.floor(Math.log10(most));
    return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= most);
  }
  const place = (sample, now) => SECONDS - (now - sample[0]) / 1000;
  function showPlots() {
    const samples = data.samples;
    if (!samples.length || document.hidden) return;
    const now = data.last.now_ms;
    let ill = '', from = null;
    samples.forEach((sample, n) => {
      const x = place(sample, now);
      if (!sample[5] && from === null) from = x - 1;
      if (from !== null && (sample[5] || n === samples.length - 1)) {
        ill += 'M' + from.toFixed(1) + ' 0H' + x.toFixed(1) + 'V100H' + from.toFixed(1) + 'z';
        from = null;
      }
    });
    for (const plot of PLOTS) {
      let most = 0;
      for (const sample of samples) for (const line of plot.lines) most = Math.max(most, sample[line] || 0);
      const top = ceiling(most, plot.least, plot.unit === span);
      plot.ill.setAttribute('d', ill);
      plot.lines.forEach((line, n) => {
        let path = '', area = '', last = null, first = 0;
        const close = () => { if (last !== null && !n) area += 'L' + last + ' 100L' + first + ' 100z'; last = null; };
        for (const sample of samples) {
          const value = sample[line], x = place(sample, now).toFixed(1);
          if (value === null || (last !== null && x - last > 5)) close();
          if (value === null) continue;
          const to = x + ' ' + (98 - 95 * Math.min(value / top, 1)).toFixed(2);
          path += (last === null ? 'M' : 'L') + to;
          if (!n) area += (last === null ? 'M' : 'L') + to;
          if (last === null) first = x;
          last = x;
        }
        close();
        plot.paths[n].setAttribute('d', path);
        if (!n) plot.area.setAttribute('d', area);
      });
      plot.top.textContent = plot.unit(top);
      plot.middle.textContent = plot.unit(top / 2);
    }
    const minute = Math.floor(now / 60000);
    if (showPlots.minute !== minute || !showPlots.minute) { showPlots.minute = minute; showMinutes(); }
  }
  /* What the plots show, in words and as a table; each minute, since a reader must not be overrun. */
  function showMinutes() {
    const minutes = new Map();
    for (const sample of data.samples) {
      const key = Math.floor(sample[0] / 60000);
      if (!minutes.has(key)) minutes.set(key, []);
      minutes.get(key).push(sample);
    }
    const most = (list, at) => { const known = list.map((s) => s[at]).filter((v) => v !== null); return known.length ? Math.max(...known) : null; };
    const middle = (list, at) => { const known = list.map((s) => s[at]).filter((v) => v !== null); return known.length ? known.reduce((a, b) => a + b) / known.length : null; };
    const or = (value, text) => value === null ? '–' : text(value);
    const rows = [...minutes].reverse().map(([key, list]) => make('tr', {}, make('td', {}, clock(key * 60000).slice(0, 5)),
      make('td', {}, short(Math.round(middle(list, 1) * 10) / 10)), make('td', {}, or(most(list, 2), span)), make('td', {}, or(middle(list, 3), span)),
      make('td', {}, or(most(list, 4), span)), make('td', {}, String(list.filter((s) => !s[5]).length))));
    get('minutes').tBodies[0].replaceChildren(...rows);
    for (const plot of PLOTS) {
      const high = most(data.samples, plot.lines[plot.lines.length - 1]), usual = middle(data.samples, plot.lines[0]);
      plot.svg.setAttribute('aria-label', plot.title + ' of the last 15 minutes: on average ' + or(usual, plot.unit) + ', at most ' + or(high, plot.unit) + '. The table below tells each minute.');
    }
  }
  function point(event, plot) {
    const box = plot.svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * SECONDS;
    const now = data.last ? data.last.now_ms : 0;
    let best = null;
    for (const sample of data.samples) if (!best || Math.abs(place(sample, now) - x) < Math.abs(place(best, now) - x)) best = sample;
    if (!best || Math.abs(place(best, now) - x) > 10) return unpoint();
    const or = (value, text) => value === null ? '–' : text(value);
    put('readout', clock(best[0] + data.skew) + ' · ' + short(best[1]) + '/s · lag ' + or(best[2], span) + ' · latency ' + or(best[3], span) + ' / ' + or(best[4], span));
    for (const other of PLOTS) other.hair.setAttribute('d', 'M' + place(best, now).toFixed(1) + ' 0V100');
  }
  function unpoint() {
    put('readout', '');
    for (const plot of PLOTS) plot.hair.setAttribute('d', '');
  }

  // ---- what happened, and who this is
  function showEvents(events) {
    const rows = events.map((event) => {
      const word = event.what.split(/[:( ]/)[0];
      const tone = event.kind === 'error' ? 'bad' : event.kind === 'warning' ? 'wait' : toneOf(event.what.startsWith('standing by') ? 'standing by' : word, true);
      const kind = make('span', { class: 'kind', 'data-tone': tone }, sign(tone), event.kind);
      const what = make('div', { class: 'what' }, make('span', { class: 'foreign' }, event.what), event.times > 1 ? ' (' + event.times + ' times)' : '');
      if (event.advice) what.append(make('p', {}, '→ ' + event.advice));
      const at = event.at_ms + data.skew;
      return make('li', {}, make('time', { datetime: new Date(at).toISOString() }, clock(at, true)), kind, what);
    });
    if (rows.length) get('events').replaceChildren(...rows);
  }
  function showAbout(it) {
    const about = it.about, rows = [
      ['Version', about.version], ['Slot', about.slot], ['Publication', about.publication],
      [about.tables.length === 1 ? 'Table' : 'Tables', about.tables.join(', ')], ['Database', about.database], ['Brokers', about.brokers],
      ['Received', it.received], ['Confirmed', it.confirmed], ['Started', clock(it.started_ms + data.skew, true)],
      ['Held for later', it.held ? plural(it.held, 'row', 'rows') + (it.next_due ? ', the next due at ' + clock(it.next_due * 1000, true) : '') : ''],
      ['Server’s log grows', it.forecast.written_per_second === null ? '' : bytes(it.forecast.written_per_second) + '/s'],
    ].filter((row) => row[1]);
    const key = JSON.stringify(rows);
    if (showAbout.key === key) return;
    showAbout.key = key;
    get('about').replaceChildren(...rows.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, name === 'Version' || name === 'Started' ? value : make('code', {}, value))]));
  }

  // ---- dead letters: read when their number has changed, and never more often
  function askForLetters(it) {
    const key = [it.dead_letters, it.parked, it.replayed].join();
    if (!it.has_letters || data.lettersOf === key) return;
    data.lettersOf = key;
    if (!it.dead_letters && !it.parked && !(data.letters && data.letters.length)) return;
    // What the relay has just done is in the table a moment later, and the table is read once a second.
    setTimeout(readLetters, data.letters ? 1200 : 0);
  }
  async function readLetters() {
    try {
      const { status, answer } = await ask('/api/dead-letters');
      if (status !== 200) return outcome([answer.error, answer.advice], true);
      data.letters = answer.letters;
      showLetters(answer.letters, answer.more);
    } catch { data.lettersOf = ''; }
  }
  function showLetters(letters, more) {
    const may = data.last.may_act, kept = new Set(letters.map((letter) => letter.position));
    chosen = new Set([...chosen].filter((position) => kept.has(position)));
    get('letters').hidden = !letters.length && !get('outcome').textContent;
    get('actions').hidden = !may || !letters.length;
    document.querySelector('table.letters').classList.toggle('may', may);
    const focused = document.activeElement && document.activeElement.value;
    get('letters-rows').replaceChildren(...letters.map((letter) => {
      const about = (letter.topic === null ? 'topic unreadable' : letter.topic);
      const box = make('input', { type: 'checkbox', value: letter.position, 'aria-label': 'Choose the letter at ' + letter.position });
      box.checked = chosen.has(letter.position);
      box.addEventListener('change', () => { box.checked ? chosen.add(box.value) : chosen.delete(box.value); enable(); });
      return make('tr', {}, make('td', { class: 'pick' }, may ? box : ''),
        make('td', { class: 'topic' }, make('span', { class: 'foreign' }, about), make('div', { class: 'sub foreign' }, letter.key === null ? 'no key' : letter.key)),
        make('td', { class: 'why foreign' }, letter.error),
        make('td', { 'data-label': 'State' }, letter.state + (letter.attempts ? ', ' + plural(letter.attempts, 'try', 'tries') : '')),
        make('td', { class: 'when', 'data-label': 'Parked' }, clock(Date.parse(letter.parked_at), true)),
        make('td', { class: 'at', 'data-label': 'Position' }, make('code', {}, letter.position)));
    }));
    const again = [...document.querySelectorAll('.letters input')].find((box) => box.value === focused);
    if (again) again.focus();
    enable();
    get('letters-more').hidden = !more;
    put('letters-more', 'These are the first ' + letters.length + '. All of them: walpost dead-letters list');
    const first = letters.length ? letters[0].position : 'X/Y+index';
    get('letters-command').replaceChildren(...(may ? [] : ['On a terminal: ', make('code', {}, 'walpost dead-letters replay ' + first), ' or ', make('code', {}, 'walpost dead-letters discard ' + first), '. Here, with --page-actions and --listen-token-file.']));
  }
  function chooseAll() {
    const boxes = [...document.querySelectorAll('.letters input')], on = boxes.some((box) => !box.checked);
    for (const box of boxes) { box.checked = on; on ? chosen.add(box.value) : chosen.delete(box.value); }
    enable();
  }
  function enable() { get('replay').disabled = get('discard').disabled = !chosen.size; put('all', chosen.size && chosen.size === document.querySelectorAll('.letters input').length ? 'Choose none' : 'Choose all'); }
  function outcome(lines, bad) {
    get('letters').hidden = false;
    get('outcome').dataset.tone = bad ? 'bad' : 'good';
    put('outcome', lines.filter(Boolean).join('\n').trim());
  }
  function confirmed(action) {
    const n = plural(chosen.size, 'letter', 'letters'), box = get('confirm'), yes = get('confirm-yes');
    put('confirm-title', (action === 'replay' ? 'Replay ' : 'Discard ') + n + '?');
    put('confirm-text', action === 'replay'
      ? 'All open letters of the same keys go with them, in their order. One that Kafka refuses again stays.'
      : 'They are given up for good and never sent. Later letters of the same keys stay until they are replayed or discarded too.');
    put('confirm-yes', (action === 'replay' ? 'Replay ' : 'Discard ') + n);
    yes.classList.toggle('danger', action === 'discard');
    box.returnValue = 'no';
    box.showModal();
    get('confirm-no').focus();
    return new Promise((resolve) => box.addEventListener('close', () => resolve(box.returnValue === 'yes'), { once: true }));
  }
  async function act(action) {
    const positions = [...chosen];
    if (!positions.length || !await confirmed(action)) return;
    outcome(['Asking…'], false);
    try {
      const { status, answer } = await ask('/api/dead-letters/' + action, { positions });
      if (status === 200) { chosen.clear(); outcome([answer.text], false); } else outcome([answer.error, answer.advice], true);
    } catch { outcome(['The relay has not answered: whether it was done, the list will tell.'], true); }
    data.lettersOf = '';
    await readLetters();
  }

  prepare();
  get('gate').addEventListener('submit', (event) => { event.preventDefault(); remember(get('token').value.trim()); get('token').value = ''; poll(); });
  get('all').addEventListener('click', chooseAll);
  get('replay').addEventListener('click', () => act('replay'));
  get('discard').addEventListener('click', () => act('discard'));
  document.addEventListener('visibilitychange', () => { if (!document.hidden) poll(); });
  poll();
})();

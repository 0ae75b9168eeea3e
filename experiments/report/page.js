'use strict';
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const run = read('run-data');
  const word = (place) => (place === null ? '' : run.words[place]);
  const BLUE = '#0072b2', RED = '#d55e00', ORANGE = '#b87700', PURPLE = '#a8508b', INK = '#16202a', GREY = '#8a95a0';

  // --- text: every word reaches the page as text, never as markup ---

  function node(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties || {});
    made.append(...children.filter((child) => child !== null));
    return made;
  }
  // Plotly reads a little markup in its texts, so what it shows is escaped first.
  const plain = (text) => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
  const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
  const two = (number) => String(number).padStart(2, '0');
  const moment = (minutes) => new Date((run.first_day * 1440 + minutes) * 60000);
  const iso = (minutes) => moment(minutes).toISOString().slice(0, 16).replace('T', ' ');
  const opens = run.fine.opens;
  const year = opens[opens.length - 1] - opens[0] > 300 * 1440 ? (minutes) => ` ${moment(minutes).getUTCFullYear()}` : () => '';
  const day = (minutes) => `${moment(minutes).getUTCDate()} ${MONTHS[moment(minutes).getUTCMonth()]}${year(minutes)}`;
  const time = (minutes) => `${day(minutes)} ${two(moment(minutes).getUTCHours())}:${two(moment(minutes).getUTCMinutes())}`;

  // --- numbers ---

  const number = (value, digits) => value.toLocaleString('en-GB', { minimumFractionDigits: digits, maximumFractionDigits: digits });
  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e6) return `${number(value / 1e6, size >= 1e7 ? 1 : 2)}\u00a0M`;
    if (size >= 1e4) return `${number(value / 1e3, size >= 1e5 ? 0 : 1)}\u00a0k`;
    return number(value, size >= 100 || Number.isInteger(value) ? 0 : size >= 1 ? 2 : 3);
  }
  const exact = (micros) => (micros / 1e6).toLocaleString('en-GB', { minimumFractionDigits: 2, maximumFractionDigits: 6 });
  function money(micros) {
    const units = micros / 1e6, size = Math.abs(units);
    if (size >= 1e5) return short(units);
    return number(units, size >= 1000 ? 0 : size >= 1 || size === 0 ? 2 : size >= 0.1 ? 3 : size >= 0.01 ? 4 : 5);
  }
  const percent = (share) => `${number(share * 100, share >= 0.1 ? 1 : share >= 0.01 ? 2 : 3)}\u00a0%`;
  const ratio = (value) => number(value, 2);
  const score = (value) => number(value, 0);
  const unless = (value, format) => (value === null || value === undefined ? '–' : format(value));

  const MEASURES = {
    spend: { key: 'spend_micros', name: 'Spend', format: money, micros: true, total: true },
    opportunities: { key: 'opportunities', name: 'Opportunities', format: short, total: true },
    win_rate: { key: 'win_rate', name: 'Win rate', format: percent, share: true, of: ['impressions', 'bids'] },
    cpm: { key: 'cpm_micros', name: 'Mean price paid per 1,000 impressions', format: money, micros: true },
    ctr: { key: 'ctr', name: 'CTR', format: percent, share: true, of: ['clicks', 'impressions'] },
    cvr: { key: 'cvr', name: 'CVR', format: percent, share: true, of: ['conversions', 'clicks'] },
    cpc: { key: 'cpc_micros', name: 'CPC', format: money, micros: true },
    cpa: { key: 'cpa_micros', name: 'CPA', format: money, micros: true },
    roas: { key: 'roas', name: 'ROAS', format: ratio },
    score: { key: 'score', name: 'Score', format: score },
    outside: { key: 'outside', name: 'Bids outside the log’s support', format: percent, share: true },
  };
  const SHOWN = ['spend', 'opportunities', 'win_rate', 'cpm', 'ctr', 'cvr', 'cpc', 'cpa', 'roas', 'score'];

  function span(minutes) {
    if (minutes % 1440 === 0) return minutes === 1440 ? '1 day' : `${minutes / 1440} days`;
    if (minutes % 60 === 0) return minutes === 60 ? '1 hour' : `${minutes / 60} hours`;
    return `${minutes} minutes`;
  }

  // --- small multiples ---

  function svg(tag, attributes) {
    const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // Line pieces between unknown values; a stretch left out of the run breaks the line as well.
  function pieces(values, bins) {
    const found = [];
    let piece = null;
    values.forEach((value, place) => {
      const known = value !== null && value !== undefined;
      const gap = place > 0 && bins.opens[place] - bins.opens[place - 1] > bins.width + 2879;
      if (!known || gap) piece = null;
      if (!known) return;
      if (piece === null) found.push((piece = []));
      piece.push([place, value]);
    });
    return found;
  }

  function spark(values, bins, filled) {
    const W = 200, H = 40, last = Math.max(values.length - 1, 1);
    const known = values.filter((value) => value !== null && value !== undefined);
    const top = Math.max(...known, 0), floor = Math.min(...known, 0), height = top - floor || 1; // refunds: a ROAS below 0
    const x = (place) => ((place / last) * (W - 4) + 2).toFixed(1);
    const y = (value) => (H - 2 - ((value - floor) / height) * (H - 6)).toFixed(1);
    const drawn = svg('svg', { class: 'spark', viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    drawn.append(svg('line', { x1: 0, x2: W, y1: y(0), y2: y(0), stroke: '#dde2e7', 'vector-effect': 'non-scaling-stroke' }));
    for (const piece of pieces(values, bins)) {
      const points = piece.map(([place, value]) => `${x(place)},${y(value)}`);
      if (filled && piece.length > 1) {
        const base = y(0), ends = [piece[0][0], piece[piece.length - 1][0]];
        drawn.append(svg('polygon', { points: `${x(ends[0])},${base} ${points.join(' ')} ${x(ends[1])},${base}`, fill: '#d6e8f3' }));
      }
      if (piece.length === 1) points.push(`${Number(x(piece[0][0])) + 2},${y(piece[0][1])}`);
      drawn.append(svg('polyline', { points: points.join(' '), fill: 'none', stroke: BLUE, 'stroke-width': 1.4, 'vector-effect': 'non-scaling-stroke' }));
    }
    return drawn;
  }

  const rows = [...document.querySelectorAll('#ranking tbody tr')];
  const rowOf = new Map(rows.map((row) => [Number(row.dataset.place), row]));
  const cards = new Map();

  // Long names differ at their ends as often as at their beginnings.
  const brief = (name) => (name.length > 20 ? `${name.slice(0, 10)}…${name.slice(-9)}` : name);

  function drawCards(name) {
    const { key, format, total } = MEASURES[name], grid = document.getElementById('cards');
    grid.textContent = '';
    run.campaigns.forEach((campaign, place) => {
      const values = campaign.coarse[key], known = values.filter((value) => value !== null);
      const low = known.length ? format(Math.min(...known)) : '', high = known.length ? format(Math.max(...known)) : '';
      const card = node('button', { className: 'card', type: 'button', title: campaign.id, onclick: () => choose(place, true) },
        node('b', { textContent: brief(campaign.id) }),
        node('span', {}, node('em', { textContent: unless(campaign.total[key], format) }),
          node('span', { textContent: known.length ? (total ? `max ${high}` : `${low} … ${high}`) : 'unknown' })),
        spark(values, run.coarse, total));
      cards.set(place, card);
    });
    document.getElementById('measure-hint').textContent = total
      ? `Bold: total of the run; beside it the most in ${span(run.coarse.width)}. Each chart has its own scale from 0.`
      : `Bold: over the whole run; beside it the lowest and highest in ${span(run.coarse.width)}. Each chart has its own scale from 0.`;
    arrange();
  }

  // Cards follow the order and the search of the table.
  function arrange() {
    const shown = [...document.querySelectorAll('#ranking tbody tr:not([hidden])')].map((row) => cards.get(Number(row.dataset.place)));
    document.getElementById('cards').replaceChildren(...shown.filter(Boolean));
    document.getElementById('found').textContent = (shown.length === rows.length ? '' : `${shown.length} of `) + (rows.length === 1 ? '1 campaign' : `${rows.length} campaigns`);
  }

  function sortBy(column, descending) {
    const value = (row) => { const cell = row.cells[column]; return cell.dataset.value === undefined ? cell.textContent : cell.dataset.value === '' ? null : Number(cell.dataset.value); };
    rows.sort((left, right) => {
      const [a, b] = [value(left), value(right)];
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === 'number' ? a - b : a.localeCompare(b, 'en', { numeric: true });
      return descending ? -order : order;
    });
    document.querySelector('#ranking tbody').append(...rows);
    document.querySelectorAll('#ranking th').forEach((head, place) => {
      if (place === column) head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    arrange();
  }

  function search(text) {
    const wanted = text.trim().toLowerCase();
    for (const [place, row] of rowOf) {
      const { id, channel, market } = run.campaigns[place];
      row.hidden = ![id, channel, market].some((name) => name.toLowerCase().includes(wanted));
    }
    arrange();
  }

  // --- decisions ---

  const MARKS = {
    applied: ['●', 'applied', BLUE, 'circle'], recorded: ['○', 'judged, not applied', '#55616d', 'circle-open'],
    refused: ['✕', 'refused', RED, 'x-thin-open'], needs_approval: ['◆', 'needs approval', ORANGE, 'diamond'],
    rollback: ['◀', 'rolled back', PURPLE, 'triangle-left'], stale: ['▽', 'stale', '#55616d', 'triangle-down-open'],
    pending: ['◇', 'pending', '#55616d', 'diamond-open'],
  };

  function decision(packed, campaign) {
    const [minutes, knob, outcome, reason, source, proposer, note, answer, verdict, ...rest] = packed;
    const parts = Array.isArray(rest[0]) ? rest[0].map(([name, ...values]) => [word(name), ...values]) : [['', ...rest]];
    const told = { minutes, campaign, knob: word(knob) || 'unknown', outcome: word(outcome), reason: word(reason), source: word(source), proposer: word(proposer), note: word(note), answer: word(answer), verdict: word(verdict), parts };
    told.kind = told.outcome === 'applied' && told.source === 'rollback' ? 'rollback' : told.outcome;
    return told;
  }

  function inUnits(knob, value) {
    if (knob === 'weights' || knob === 'modifiers') return `${number(value / 1e4, value % 1e4 ? 2 : 0)}\u00a0%`;
    if (knob === 'paused') return value === 0 ? 'running' : value === 1 ? 'paused' : String(value);
    return knob === 'bid' || knob === 'budget' ? exact(value) : String(value);
  }

  function step(told, [, old, wanted]) {
    const scalar = ['bid', 'budget', 'modifiers'].includes(told.knob);
    const size = scalar && old > 0 ? ((wanted - old) / old) * 100 : null;
    return size === null ? '' : ` (${size < 0 ? '−' : '+'}${number(Math.abs(size), Math.abs(size) < 10 ? 1 : 0)}\u00a0%)`;
  }
  const change = (told) => told.parts.map((part) =>
    `${part[0] ? `${part[0]} ` : ''}${inUnits(told.knob, part[1])} → ${inUnits(told.knob, part[2])}${step(told, part)}`);
  const offered = (told) => told.parts.filter((part) => part[3] !== null).map((part) => `${part[0] ? `${part[0]} ` : ''}${inUnits(told.knob, part[3])}`);
  const who = (told) => (told.proposer && told.proposer !== told.source ? `${told.proposer} (${told.source})` : told.source);

  const lines = (texts) => (texts.length ? texts.flatMap((text, place) => (place ? [node('br'), text] : [text])) : ['–']);
  const campaignLink = (place) => {
    if (place === null) return 'unknown';
    return node('a', { href: '#campaign', textContent: run.campaigns[place].id, onclick: (event) => { event.preventDefault(); choose(place, true); } });
  };
  const COLUMNS = {
    time: ['Acts from', (told) => time(told.minutes), 'time'],
    campaign: ['Campaign', (told) => campaignLink(told.campaign), 'word'],
    knob: ['Knob', (told) => told.knob, 'word'],
    change: ['In force → asked', (told) => lines(change(told)), 'word long'],
    before: ['Before → after', (told) => lines(change(told)), 'word long'],
    offer: ['Offered', (told) => lines(offered(told)), 'word'],
    outcome: ['Guard', (told) => [node('span', { className: `mark ${told.kind}`, textContent: (MARKS[told.kind] || ['·'])[0] }), (MARKS[told.kind] || ['', told.kind])[1]], 'word'],
    reason: ['Why', (told) => told.reason || '–', 'word long'],
    who: ['Asked by', who, 'word'],
    note: ['Note', (told) => told.note || '–', 'word long'],
    verdict: ['Watch', (told) => told.verdict || '–', 'word long'],
    answer: ['Answer', (told) => told.answer || '–', 'word long'],
  };
  const PAGE = 25;

  function table(place, told, names, none) {
    place.textContent = '';
    if (!told.length) { place.append(node('p', { className: 'none', textContent: none })); return; }
    const body = node('tbody');
    const head = node('tr', {}, ...names.map((name) => node('th', { className: 'word', scope: 'col', textContent: COLUMNS[name][0] })));
    const more = node('button', { className: 'more', type: 'button' });
    let shown = 0;
    const grow = () => {
      for (const each of told.slice(shown, shown + PAGE)) {
        body.append(node('tr', {}, ...names.map((name) => node('td', { className: COLUMNS[name][2] }, ...[COLUMNS[name][1](each)].flat()))));
      }
      shown = Math.min(shown + PAGE, told.length);
      more.hidden = shown === told.length;
      more.textContent = `Show ${Math.min(PAGE * 4, told.length - shown)} more of ${number(told.length - shown, 0)}`;
    };
    more.onclick = () => { for (let turn = 0; turn < 4 && shown < told.length; turn += 1) grow(); };
    place.append(node('div', { className: 'scroll log' }, node('table', {}, node('thead', {}, head), body)), more);
    grow();
  }

  function drawDecisions() {
    const told = run.decisions.map(([campaign, ...packed]) => decision(packed, campaign));
    const at = (name) => document.querySelector(`[data-table="${name}"]`);
    const of = (test) => told.filter(test);
    table(at('refused'), of((each) => each.outcome === 'refused'), ['time', 'campaign', 'knob', 'change', 'offer', 'reason', 'who', 'note'], 'Nothing was refused.');
    table(at('approvals'), of((each) => each.outcome === 'needs_approval'), ['time', 'campaign', 'knob', 'change', 'reason', 'who', 'note', 'answer'], 'Nothing waited for approval.');
    table(at('rollbacks'), of((each) => each.source === 'rollback'), ['time', 'campaign', 'knob', 'before', 'outcome', 'who', 'note'], 'Nothing was rolled back.');
    table(at('others'), of((each) => !['refused', 'needs_approval'].includes(each.outcome) && each.source !== 'rollback'), ['time', 'campaign', 'knob', 'change', 'outcome', 'who', 'note', 'verdict'], 'None.');
    COLUMNS.about = ['About', (each) => (each.campaign === null ? 'the whole account' : campaignLink(each.campaign)), 'word'];
    COLUMNS.kind = ['Command', (each) => each.kind, 'word'];
    COLUMNS.by = ['By', (each) => each.by, 'word'];
    COLUMNS.told = ['Answer', (each) => each.told, 'word'];
    table(at('commands'), run.commands.map(([minutes, kind, by, campaign, knob, answer]) => ({ minutes, kind: word(kind), by: word(by), campaign, knob: word(knob) || '–', told: word(answer).replace(/_/g, ' ') })),
      ['time', 'by', 'kind', 'about', 'knob', 'told'], 'Nobody commanded anything.');
  }

  // --- charts of one campaign ---

  const coarsePointer = window.matchMedia('(pointer: coarse)').matches;
  let shownCharts = [];

  function axes(range, breaks, extra) {
    return {
      height: 198, margin: { l: 58, r: 10, t: 8, b: 38 }, showlegend: false, hovermode: 'x unified', dragmode: coarsePointer ? false : 'zoom',
      paper_bgcolor: '#fff', plot_bgcolor: '#fff', font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif', size: 11, color: '#55616d' },
      hoverlabel: { bgcolor: '#fff', bordercolor: '#c3cbd3', align: 'left', namelength: -1, font: { color: INK, size: 12 } },
      xaxis: { type: 'date', range: range.map(iso), rangebreaks: breaks, showgrid: false, linecolor: '#c3cbd3', ticks: 'outside', ticklen: 3, tickcolor: '#c3cbd3', tickformatstops: [{ dtickrange: [null, 43200000], value: '%H:%M\n%-d %b' }, { dtickrange: [43200001, 'M1'], value: '%-d %b' }], nticks: 8, hoverformat: '%-d %b %H:%M', fixedrange: coarsePointer },
      yaxis: { rangemode: 'tozero', gridcolor: '#edf0f2', zeroline: false, fixedrange: true, nticks: 5, tickformat: ',~r' },
      ...extra,
    };
  }

  function draw(place, traces, layout) {
    Plotly.newPlot(place, traces, layout, { displayModeBar: false, responsive: true, doubleClick: 'reset' });
    shownCharts.push(place);
    place.on('plotly_relayout', (moved) => follow(place, moved));
  }

  // A zoom of one chart is a zoom of all.
  let following = false;
  function follow(from, moved) {
    const range = moved['xaxis.range[0]'] ? [moved['xaxis.range[0]'], moved['xaxis.range[1]']] : moved['xaxis.range'];
    if (following || !range) return;
    following = true;
    Promise.all(shownCharts.filter((chart) => chart !== from).map((chart) => Plotly.relayout(chart, { 'xaxis.range': range }))).finally(() => { following = false; });
  }

  function frame(grid, title, keys, wide) {
    const place = node('div');
    const legend = node('span', { className: 'key' });
    for (const [text, colour] of keys) { const key = node('span', { textContent: text }); key.style.color = colour; legend.append(key); }
    grid.append(node('div', { className: wide ? 'chart wide' : 'chart' }, node('header', {}, node('b', { textContent: title }), legend), place));
    return place;
  }

  // Spend so far within each budget period, from 0 at its opening; a chart of days shows spend per day instead.
  function sawtooth(bins, values, period) {
    const x = [], y = [];
    let sum = 0, now = null;
    values.forEach((value, place) => {
      const open = bins.opens[place], at = period === 'day' ? Math.floor(open / 1440) : 0;
      const gap = place > 0 && open - bins.opens[place - 1] > bins.width + 2879;
      if (at !== now || gap) {
        if (at !== now) sum = 0;
        if (now !== null) { x.push(iso(open)); y.push(null); }
        x.push(iso(open)); y.push(value === null ? null : sum / 1e6);
        now = at;
      }
      sum += value || 0;
      x.push(iso(open + bins.width)); y.push(value === null ? null : sum / 1e6);
    });
    return { x, y };
  }

  function planned(bins, budgets, done, period) {
    const x = [], y = [];
    let now = null;
    budgets.forEach((budget, place) => {
      const open = bins.opens[place], at = period === 'day' ? Math.floor(open / 1440) : 0;
      if (at !== now) {
        const before = now === null && place === 0 && period !== 'day' ? 0 : null;
        x.push(iso(open)); y.push(before);
        if (before === null) { x.push(iso(open)); y.push(budget === null ? null : 0); }
        now = at;
      }
      x.push(iso(open + bins.width)); y.push(budget === null ? null : (budget * done[place]) / 1e6);
    });
    return { x, y };
  }

  function steps(bins, values, scale) {
    const x = [], y = [];
    values.forEach((value, place) => {
      if (place > 0 && bins.opens[place] - bins.opens[place - 1] > bins.width + 2879) { x.push(iso(bins.opens[place])); y.push(null); }
      x.push(iso(bins.opens[place])); y.push(value === null ? null : value / scale);
      if ((values[place + 1] ?? null) === null) { x.push(iso(bins.opens[place] + bins.width)); y.push(value === null ? null : value / scale); }
    });
    return { x, y };
  }

  const line = (data, colour, name, extra) => ({ type: 'scatter', mode: 'lines', connectgaps: false, name, line: { color: colour, width: 1.6 }, ...data, ...extra });

  function spendChart(grid, campaign, detail, layout) {
    const { fine } = run, byDay = campaign.period === 'day', daily = byDay && fine.width >= 1440;
    const keys = [[daily ? 'spend per day' : 'spent so far', BLUE], ['budget in force', INK]];
    if (!daily) keys.push([campaign.plan.policy ? `plan of ${campaign.plan.policy} · · ·` : 'even pace · · ·', '#55616d']);
    const place = frame(grid, `Spend against budget, ${run.currency} per ${byDay ? 'day' : 'flight'}`, keys, true);
    const money6 = ',.2f';
    const spend = daily ? steps(fine, detail.spend_micros, 1e6) : sawtooth(fine, detail.spend_micros, campaign.period);
    const traces = [line(spend, BLUE, 'spent', { fill: 'tozeroy', fillcolor: 'rgba(0,114,178,0.10)', yhoverformat: money6 }),
      line(steps(fine, detail.budget_micros, 1e6), INK, 'budget', { line: { color: INK, width: 1.2, shape: 'hv' }, yhoverformat: money6 })];
    if (!daily) traces.push(line(planned(fine, detail.budget_micros, run.plans[campaign.plan.curve], campaign.period), GREY, 'plan', { line: { color: GREY, width: 1.2, dash: 'dot' }, yhoverformat: money6 }));
    draw(place, traces, layout({ height: 238 }));
  }

  function bandTraces(detail, end) {
    const x = [], low = [], high = [];
    detail.band.forEach(([from, bottom, top], place) => {
      const until = place + 1 < detail.band.length ? detail.band[place + 1][0] : end;
      x.push(iso(from), iso(until)); low.push(bottom / 1e6, bottom / 1e6); high.push(top / 1e6, top / 1e6);
    });
    const edge = { width: 0 };
    return [line({ x, y: low }, ORANGE, 'band from', { line: edge, yhoverformat: ',.6~f' }),
      line({ x, y: high }, ORANGE, 'band to', { line: edge, fill: 'tonexty', fillcolor: 'rgba(230,159,0,0.14)', yhoverformat: ',.6~f' })];
  }

  function bidChart(grid, campaign, detail, layout, range) {
    const tops = detail.band.map((each) => each[2]), bids = detail.bid_micros.filter((bid) => bid !== null);
    const top = Math.max(...tops, ...bids) * 1.06, [least, most] = campaign.bounds;
    const inside = (bound) => bound <= top;
    const keys = [['bid', BLUE], ['anchor band', ORANGE]];
    keys.push([`hard bounds ${exact(least)} … ${exact(most)}${inside(most) ? ' - - -' : ', the upper one above this chart'}`, RED]);
    const place = frame(grid, `Bid, ${run.currency} for an opportunity of reference value`, keys, true);
    const shapes = [least, most].filter(inside).map((bound) => ({ type: 'line', xref: 'paper', x0: 0, x1: 1, y0: bound / 1e6, y1: bound / 1e6, line: { color: RED, width: 1, dash: 'dash' } }));
    const paused = detail.paused.map(([from, until]) => ({ type: 'rect', yref: 'paper', y0: 0, y1: 1, x0: iso(from), x1: iso(until), fillcolor: 'rgba(85,97,109,0.12)', line: { width: 0 }, layer: 'below', label: { text: 'paused', textposition: 'top center', font: { size: 10, color: '#55616d' } } }));
    const bid = line(steps(run.fine, detail.bid_micros, 1e6), BLUE, 'bid', { line: { color: BLUE, width: 1.6, shape: 'hv' }, yhoverformat: ',.6~f' });
    const base = layout({ height: 238, shapes: [...shapes, ...paused] });
    base.yaxis = { ...base.yaxis, range: [0, top / 1e6] };
    draw(place, [...bandTraces(detail, range[1]), bid], base);
  }

  function changesChart(grid, told, layout) {
    const lanes = ['paused', 'weights', 'modifiers', 'budget', 'bid', 'unknown'].filter((knob) => told.some((each) => each.knob === knob));
    const kinds = Object.keys(MARKS).filter((kind) => told.some((each) => each.kind === kind));
    const place = frame(grid, 'Every change that was judged', kinds.map((kind) => [`${MARKS[kind][0]} ${MARKS[kind][1]}`, MARKS[kind][2]]), true);
    if (!told.length) { place.append(node('p', { className: 'none', textContent: 'Nobody asked for a change of this campaign.' })); return; }
    const text = (each) => [`<b>${plain(time(each.minutes))} · ${plain(each.knob)}</b>`, ...change(each).map(plain),
      plain(`${(MARKS[each.kind] || ['', each.kind])[1]}${each.reason ? `: ${each.reason}` : ''}`),
      ...(offered(each).length ? [plain(`offered ${offered(each).join(', ')}`)] : []), plain(`asked by ${who(each)}`),
      ...(each.note ? [plain(each.note)] : []), ...(each.answer ? [plain(each.answer)] : []), ...(each.verdict ? [plain(`watch: ${each.verdict}`)] : [])].map(wrapped).join('<br>');
    const traces = kinds.map((kind) => {
      const mine = told.filter((each) => each.kind === kind);
      const routine = mine.map((each) => each.source === 'policy');
      return { type: 'scatter', mode: 'markers', name: MARKS[kind][1], x: mine.map((each) => iso(each.minutes)), y: mine.map((each) => each.knob), text: mine.map(text), hovertemplate: '%{text}<extra></extra>',
        marker: { symbol: MARKS[kind][3], color: MARKS[kind][2], size: routine.map((small) => (small ? 4 : 10)), opacity: routine.map((small) => (small ? 0.55 : 1)), line: { width: kind === 'refused' ? 2.4 : 1, color: MARKS[kind][2] } } };
    });
    const base = layout({ height: 72 + 30 * lanes.length, hovermode: 'closest' });
    base.yaxis = { type: 'category', categoryorder: 'array', categoryarray: lanes, range: [-0.6, lanes.length - 0.4], gridcolor: '#edf0f2', fixedrange: true };
    draw(place, traces, base);
  }
  // Plotly breaks no lines; a break never falls inside an escaped character.
  const wrapped = (text) => text.replace(/((?:&\w+;|[^&]){60,}?)\s/g, '$1<br>');

  function rateChart(grid, name, campaign, values, bins, layout, cases) {
    const { name: title, format, micros, share, key } = MEASURES[name], target = run.targets[name];
    const total = campaign.total[key];
    const keys = total === undefined || total === null ? [] : [[`${format(total)} ${MEASURES[name].total ? 'in all' : 'over the run'}`, BLUE]];
    const known = values.filter((value) => value !== null);
    if (!known.length) return [campaign.unknown[key] || 'Unknown throughout', title];
    const unit = micros ? `, ${run.currency}` : '';
    const place = frame(grid, title + unit, keys, false);
    const scale = micros ? 1e6 : 1, middle = bins.width / 2;
    const x = [], y = [], text = [];
    values.forEach((value, at) => {
      if (at > 0 && bins.opens[at] - bins.opens[at - 1] > bins.width + 2879) { x.push(iso(bins.opens[at] - 1)); y.push(null); text.push(''); }
      x.push(iso(bins.opens[at] + middle)); y.push(value === null ? null : value / scale);
      text.push(value === null ? '' : `${format(value)}${cases ? cases(at) : ''}`);
    });
    const few = values.length <= 60;
    const trace = { type: 'scatter', mode: few ? 'lines+markers' : 'lines', connectgaps: false, name: plain(title), x, y, text, hovertemplate: '%{text}<extra></extra>', line: { color: BLUE, width: 1.5 }, marker: { size: 4, color: BLUE } };
    if (!few) isolated(trace);
    const base = layout({});
    base.yaxis = { ...base.yaxis, tickformat: share ? '~%' : ',~r' };
    if (name === 'score') base.yaxis.range = [0, 104];
    const most = Math.max(...known) / scale;
    if (target && target <= most * 1.6) {
      base.shapes = [{ type: 'line', xref: 'paper', x0: 0, x1: 1, y0: target, y1: target, line: { color: '#55616d', width: 1, dash: 'dot' } }];
      base.annotations = [{ xref: 'paper', x: 1, xanchor: 'right', y: target, yanchor: 'bottom', text: `target ${format(target)}`, showarrow: false, font: { size: 10, color: '#55616d' } }];
      base.yaxis.range = [Math.min(...known, 0) / scale * 1.12, Math.max(most, target) * 1.12];
    }
    draw(place, [trace], base);
    return null;
  }
  // A known value between two unknown ones has no line: it is shown as a point.
  function isolated(trace) {
    const alone = trace.y.map((value, at) => value !== null && (trace.y[at - 1] ?? null) === null && (trace.y[at + 1] ?? null) === null);
    if (alone.some(Boolean)) { trace.mode = 'lines+markers'; trace.marker = { color: BLUE, size: alone.map((single) => (single ? 4 : 0)) }; }
  }

  const OF = {
    win_rate: (counts, at) => ` · ${number(counts.impressions[at], 0)} of ${number(counts.bids[at] || 0, 0)} bids`,
    ctr: (counts, at) => ` · ${number(counts.clicks[at], 0)} of ${number(counts.impressions[at], 0)} impressions`,
    cvr: (counts, at) => ` · ${number(counts.conversions[at], 0)} of ${number(counts.clicks[at], 0)} clicks`,
    cpa: (counts, at) => ` · ${number(counts.conversions[at], 0)} conversions`,
    roas: (counts, at) => ` · ${number(counts.conversions[at], 0)} conversions`,
  };

  function alertLines(detail) {
    const lines = detail.alerts.map(([open, text]) => node('li', {}, node('span', { className: `state ${open ? 'open' : 'closed'}`, textContent: open ? 'open' : 'closed' }), ` ${text}`));
    return lines.length ? node('ul', { className: 'alerts', ariaLabel: 'Alerts' }, ...lines) : null;
  }

  // The story as `bidtwin audit RUN --story CAMPAIGN` tells it, line by line.
  function story(campaign, detail) {
    const told = node('details', { className: 'story' }, node('summary', { textContent: `The story of ${campaign.id}, as the ledger tells it` }));
    told.append(node('p', { className: 'hint', textContent: `Told by ${number(detail.story_records, 0)} ledger records, each chained to the one before; the same as bidtwin audit RUN --story ${campaign.id}.` }));
    if (detail.story_left_out) told.append(node('p', { className: 'hint', textContent: `The first ${detail.story_left_out === 1 ? 'day is' : `${number(detail.story_left_out, 0)} days are`} left out here.` }));
    if (!detail.story.length) told.append(node('p', { className: 'none', textContent: 'Nobody asked for a change of this campaign.' }));
    for (const [date, steps, blocks] of detail.story) {
      told.append(node('h4', { textContent: date }), ...steps.map((line) => node('p', { className: 'steps', textContent: line })));
      for (const [headline, ...lines] of blocks) {
        told.append(node('div', { className: 'entry' }, node('p', {}, node('b', { textContent: headline })), ...lines.map((line) => node('p', { textContent: line }))));
      }
    }
    return told;
  }

  function drawDetail(place) {
    shownCharts.forEach((chart) => Plotly.purge(chart));
    shownCharts = [];
    const campaign = run.campaigns[place], area = document.getElementById('detail');
    area.textContent = '';
    area.append(node('p', { className: 'title', textContent: campaign.id }));
    const about = [`channel ${campaign.channel}`, `market ${campaign.market}`, `budget per ${campaign.period}`];
    area.append(node('p', { className: 'bounds', textContent: `${about.join(' · ')}. Close up: bins of ${span(run.fine.width)}; rates: ${span(run.coarse.width)}; a gap is an unknown.` }));
    if (place >= run.detailed || document.getElementById(`campaign-${campaign.number}`) === null) {
      area.append(node('p', { className: 'none', textContent: `The page holds the charts of the ${run.detailed} campaigns that spent most; the tables of the run hold all.` }));
      return;
    }
    const detail = read(`campaign-${campaign.number}`);
    const alerts = alertLines(detail);
    if (alerts) area.append(alerts);
    if (detail.span === null) { area.append(node('p', { className: 'none', textContent: 'Nothing reached this campaign.' })); return; }
    const range = detail.span, breaks = run.fine.gaps.filter(([from, until]) => from > range[0] && until < range[1]).map(([from, until]) => ({ bounds: [iso(from), iso(until)] }));
    const layout = (extra) => axes(range, breaks, extra);
    const grid = node('div', { className: 'charts' });
    area.append(grid);
    if (breaks.length) area.insertBefore(node('p', { className: 'hint', textContent: `Left out, since nothing was logged: ${run.fine.gaps.map(([from, until]) => `${day(from)} to ${day(until)}`).join(', ')}.` }), grid);
    const told = detail.changes.map((packed) => decision(packed, place));
    spendChart(grid, campaign, detail, layout);
    bidChart(grid, campaign, detail, layout, range);
    changesChart(grid, told, layout);
    const counts = campaign.coarse;
    const missing = ['win_rate', 'ctr', 'cvr', 'cpa', 'roas', 'score'].map((name) =>
      rateChart(grid, name, campaign, counts[MEASURES[name].key], run.coarse, layout, OF[name] && ((at) => OF[name](counts, at))));
    missing.push(rateChart(grid, 'cpm', campaign, detail.cpm_micros, run.fine, layout, null));
    missing.push(rateChart(grid, 'opportunities', campaign, detail.opportunities, run.fine, layout, null));
    if (detail.outside) missing.push(rateChart(grid, 'outside', campaign, detail.outside, run.fine, layout, null));
    const untold = new Map();
    for (const [why, title] of missing.filter(Boolean)) untold.set(why, [...(untold.get(why) || []), title]);
    const sentences = [...untold].map(([why, titles]) => `${why}: ${titles.join(', ')}.`);
    if (sentences.length) grid.append(node('p', { className: 'none wide', textContent: `Not drawn. ${sentences.join(' ')}` }));
    const log = node('div');
    area.append(story(campaign, detail));
    area.append(node('h3', { textContent: `All judged changes of ${campaign.id}` }), log);
    if (detail.left_out) area.append(node('p', { className: 'hint', textContent: `The first ${number(detail.left_out, 0)} are left out here; actions.parquet holds them.` }));
    table(log, [...told].reverse(), ['time', 'knob', 'change', 'outcome', 'reason', 'offer', 'who', 'note', 'verdict'], 'None.');
  }

  // --- choosing ---

  let chosen = null, stale = false;
  const section = document.getElementById('campaign');
  const near = () => { const box = section.getBoundingClientRect(); return box.top < window.innerHeight + 600 && box.bottom > -600; };

  function choose(place, go) {
    if (place !== chosen) {
      for (const old of [cards.get(chosen), rowOf.get(chosen)]) if (old) old.classList.remove('chosen');
      chosen = place; stale = true;
      for (const now of [cards.get(place), rowOf.get(place)]) if (now) now.classList.add('chosen');
      document.getElementById('choice').value = String(place);
      document.getElementById('previous').disabled = place === 0;
      document.getElementById('next').disabled = place === run.campaigns.length - 1;
    }
    if (go) section.scrollIntoView({ behavior: 'auto', block: 'start' });
    drawIfSeen();
  }
  function drawIfSeen() {
    if (stale && near()) { stale = false; drawDetail(chosen); }
  }

  // --- markets ---

  function drawMarkets() {
    const area = document.getElementById('market-cards');
    for (const market of run.markets) {
      const box = node('div', { className: 'market' }, node('h4', { textContent: market.name }));
      for (const [label, key, format] of [['Opportunities', 'opportunities', short], [`Price paid per 1,000, ${run.currency}`, 'cpm_micros', money]]) {
        const known = market[key].filter((value) => value !== null);
        const bounds = known.length ? `${format(Math.min(...known))} … ${format(Math.max(...known))}` : 'not told by the source';
        box.append(node('p', {}, node('span', { textContent: label }), node('em', { textContent: bounds })));
        if (known.length) box.append(spark(market[key], run.markets_bins === 'fine' ? run.fine : run.coarse, key === 'opportunities'));
      }
      box.append(node('p', {}, node('span', { textContent: day(opens[0]) }), node('span', { textContent: day(opens[opens.length - 1]) })));
      area.append(box);
    }
  }

  // --- begin ---

  const measure = document.getElementById('measure');
  for (const name of SHOWN) {
    if (run.campaigns.some((campaign) => campaign.coarse[MEASURES[name].key].some((value) => value !== null))) measure.append(new Option(MEASURES[name].name, name));
  }
  measure.onchange = () => { drawCards(measure.value); choose(chosen, false); const card = cards.get(chosen); if (card) card.classList.add('chosen'); };
  document.querySelectorAll('#ranking th').forEach((head, column) => {
    head.querySelector('button').onclick = () => {
      const before = head.getAttribute('aria-sort');
      sortBy(column, before ? before === 'ascending' : !head.classList.contains('word'));
    };
  });
  document.querySelectorAll('a[data-campaign]').forEach((link) => { link.onclick = (event) => { event.preventDefault(); choose(Number(link.dataset.campaign), true); }; });
  for (const [place, row] of rowOf) row.querySelector('a').onclick = (event) => { event.preventDefault(); choose(place, true); };
  document.getElementById('search').oninput = (event) => search(event.target.value);
  const choice = document.getElementById('choice');
  run.campaigns.forEach((campaign, place) => choice.append(new Option(campaign.id, String(place))));
  choice.onchange = () => choose(Number(choice.value), false);
  document.getElementById('previous').onclick = () => choose(chosen - 1, false);
  document.getElementById('next').onclick = () => choose(chosen + 1, false);
  drawCards(measure.value || 'spend');
  drawDecisions();
  drawMarkets();
  choose(0, false);
  for (const event of ['scroll', 'resize', 'load']) window.addEventListener(event, drawIfSeen, { passive: true });
})();

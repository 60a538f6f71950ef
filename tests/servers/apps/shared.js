// What a page sees of its source: window.source, window.got, window.states.

const { SharedEventSource } = await import(document.getElementById('module').href);

window.watch = (url = '/events', options = {}, names = ['even', 'odd']) => {
  window.got = [];
  window.states = [];
  window.reasons = [];
  window.source = new SharedEventSource(url, options);
  for (const name of [...names, 'message', 'close'])
    source.addEventListener(name, (e) => got.push([e.type, e.data, e.lastEventId]));
  for (const name of ['open', 'error'])
    source[`on${name}`] = () => {
      states.push(`${name} ${source.state} ${source.readyState}`);
      if (name === 'error') reasons.push(source.reason);
    };
};
window.SharedEventSource = SharedEventSource;
const query = new URLSearchParams(location.search);
if (query.has('url')) watch(query.get('url'), JSON.parse(query.get('options') ?? '{}'));

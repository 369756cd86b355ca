// Keeps "3 min ago" true while the page is open.

const units = [["d", 86400000], ["h", 3600000], ["min", 60000], ["s", 1000]];
const server = { ahead: 0 };

function ago(at) {
  const apart = at - (Date.now() + server.ahead);
  const size = Math.abs(apart);
  if (size < 1000) return apart > 0 ? "now" : "just now";
  const [unit, length] = units.find(([, each]) => size >= each);
  const text = `${Math.floor(size / length)} ${unit}`;
  return apart > 0 ? `in ${text}` : `${text} ago`;
}

export function tick() {
  for (const each of document.querySelectorAll("time[data-at]")) {
    const text = ago(Number(each.dataset.at));
    if (each.textContent !== text) each.textContent = text;
  }
}

setInterval(() => { if (!document.hidden) tick(); }, 1000);

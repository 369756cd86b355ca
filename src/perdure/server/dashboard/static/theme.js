// Runs ahead of the first paint, so that nobody sees the other colours first.
{
  let chosen = null;
  try { chosen = localStorage.getItem("perdure-theme"); } catch { /* storage may be off */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

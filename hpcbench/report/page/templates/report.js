"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const words = data.words;
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // ---- light and dark ------------------------------------------------------------------------------
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // by hand; until then the page follows the system
  const theme = () => chosen ?? (preferred.matches ? "dark" : "light");
  function showTheme() {
    root.dataset.theme = theme();
    redrawCharts();
  }
  document.getElementById("theme").addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    showTheme();
  });
  preferred.addEventListener("change", showTheme);

  // ---- the ranked table ----------------------------------------------------------------------------
  const table = document.querySelector("table.ranking");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const search = document.getElementById("search");
  const untrusted = document.getElementById("untrusted");
  const shown = document.getElementById("shown");
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();

  function compare(column, descending) {
    const numeric = heads[column].dataset.type === "number";
    return (one, other) => {
      const a = value(one, column), b = value(other, column);
      if (a === "" || b === "") return (a === "") - (b === ""); // what is unknown stands last, either way
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
      return (descending ? -order : order) || one.dataset.order - other.dataset.order;
    };
  }
  function sortBy(column) {
    const head = heads[column];
    const descending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...rows.sort(compare(column, descending)));
  }
  // ">5", "<=3", "2..4", "=exactly"; anything else is part of the text.
  function test(wanted) {
    const bound = /^(<=|>=|<|>)\s*(-?[\d.]+)$/.exec(wanted);
    const span = /^(-?[\d.]+)\s*\.\.\s*(-?[\d.]+)$/.exec(wanted);
    const holds = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b };
    if (bound) return (v) => v !== "" && holds[bound[1]](Number(v), Number(bound[2]));
    if (span) return (v) => v !== "" && Number(v) >= Number(span[1]) && Number(v) <= Number(span[2]);
    if (wanted.startsWith("=")) return (v, text) => v === wanted.slice(1) || text === wanted.slice(1);
    return (v, text) => text.toLowerCase().includes(wanted.toLowerCase());
  }
  function filter() {
    const wanted = all("thead input", table)
      .map((input) => ({ column: input.closest("th").cellIndex, text: input.value.trim() }))
      .filter((each) => each.text)
      .map((each) => ({ column: each.column, holds: test(each.text) }));
    const anywhere = search.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const kept = (untrusted.checked || row.dataset.trusted !== "no")
        && (!anywhere || row.textContent.toLowerCase().includes(anywhere))
        && wanted.every(({ column, holds }) => holds(value(row, column), row.cells[column].textContent.trim()));
      row.hidden = !kept;
      count += kept;
    }
    shown.textContent = words.rows_shown.replace("{shown}", count).replace("{all}", rows.length);
  }
  function clearFilters() {
    all("thead input", table).forEach((input) => { input.value = ""; });
    search.value = "";
    untrusted.checked = true;
    filter();
  }
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(column)));
  table.tHead.addEventListener("input", filter);
  search.addEventListener("input", filter);
  untrusted.addEventListener("change", filter);
  document.getElementById("columns").addEventListener("change", (event) => {
    table.classList.toggle("all", event.target.checked);
  });
  document.getElementById("clear").addEventListener("click", clearFilters);
  filter();

  // ---- links inside the page -----------------------------------------------------------------------
  function arrive() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.matches("tr[hidden]")) clearFilters(); // a link to a row that is filtered away still finds it
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    rows.forEach((row) => row.classList.remove("hit"));
    if (target.tagName === "TR") {
      target.classList.add("hit");
      target.querySelector("th a").focus({ preventScroll: true });
    }
    target.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", arrive);
  // A second click on the same link changes no hash.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (link && link.hash === location.hash) arrive();
  });

  // ---- curves --------------------------------------------------------------------------------------
  const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
  const charts = all(".plot");
  const drawn = new Set();
  let printing = false;

  const LIGHT = { "--ink": "#000000", "--line": "#bbbbbb", "--c0": "#0072b2", "--c1": "#d55e00", "--c2": "#009e73",
    "--c3": "#b87a00", "--c4": "#b4548a", "--c5": "#2f9bdb", "--c6": "#000000" }; // paper is white
  const colourOf = (name) => (printing ? LIGHT[name] : getComputedStyle(root).getPropertyValue(name).trim());

  function members(section) {
    return all("input[type=checkbox]", section).map((box, place) => ({
      on: box.checked,
      experiment: data.experiments[Number(box.value)],
      colour: `--c${place % data.colours}`,
      dash: data.dashes[Math.floor(place / data.colours) % data.dashes.length],
    }));
  }
  function traces(chart) {
    const metric = chart.dataset.metric;
    const found = [];
    for (const { on, experiment, colour: name, dash } of members(chart.closest("section"))) {
      const curve = experiment.curves[metric];
      if (!on || !curve) continue;
      const [x, mean, low, high] = curve;
      const colour = colourOf(name);
      if (low) {
        found.push({ x: [...x, ...x.slice().reverse()], y: [...high, ...low.slice().reverse()], fill: "toself",
          fillcolor: `${colour}2e`, line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false });
      }
      found.push({ x, y: mean, mode: x.length > 30 ? "lines" : "lines+markers", line: { color: colour, dash, width: 2 },
        marker: { size: 5 }, name: escaped(experiment.name), showlegend: false,
        hovertemplate: `${escaped(experiment.name)}<br>%{x}: %{y:.5~g}<extra></extra>` });
    }
    return found;
  }
  function layout(chart) {
    const line = colourOf("--line");
    const axis = { gridcolor: line, linecolor: line, zeroline: false, automargin: true };
    const whole = chart.dataset.metric === "step_loss" ? {} : { tickformat: ",d" };
    return {
      margin: { l: 55, r: 12, t: 30, b: 42 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "inherit", size: 12, color: colourOf("--ink") }, hovermode: "closest",
      xaxis: { ...axis, ...whole, title: { text: chart.dataset.x } },
      yaxis: { ...axis, title: { text: chart.dataset.y }, rangemode: chart.dataset.zero ? "tozero" : "normal" },
      ...(printing ? { width: 330, height: 205, autosize: false } : { autosize: true }),
    };
  }
  function draw(chart) {
    drawn.add(chart);
    const names = members(chart.closest("section")).filter((each) => each.on).map((each) => each.experiment.name);
    chart.setAttribute("aria-label", `${chart.dataset.label}: ${names.join(", ")}`);
    return Plotly.react(chart, traces(chart), layout(chart),
      { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
  }
  function redrawCharts() { drawn.forEach(draw); }
  const sight = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      sight.unobserve(entry.target);
      draw(entry.target);
    });
  }, { rootMargin: "300px" });
  charts.forEach((chart) => sight.observe(chart));
  all(".switches").forEach((switches) => {
    const section = switches.closest("section");
    const redraw = () => all(".plot", section).filter((chart) => drawn.has(chart)).forEach(draw);
    switches.addEventListener("change", redraw);
    all("button", switches).forEach((button) => button.addEventListener("click", () => {
      all("input", switches).forEach((box) => { box.checked = button.dataset.all === "on"; });
      redraw();
    }));
  });
  addEventListener("beforeprint", () => { printing = true; charts.forEach(draw); });
  addEventListener("afterprint", () => { printing = false; redrawCharts(); });

  showTheme();
  if (location.hash) arrive();
})();

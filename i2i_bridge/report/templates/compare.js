"use strict";
// The gallery. One state, one function that draws it; everything else only changes the state.
(() => {
  const holder = document.getElementById("gallery-data");
  if (!holder) return;
  const { metrics, sources, images, start } = JSON.parse(holder.textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, more = {}, ...inside) => {
    const node = Object.assign(document.createElement(tag), more);
    node.append(...inside);
    return node;
  };
  const state = {
    image: 0, left: start.left, right: start.right, view: "slider", split: 0.5,
    zoom: 1, x: 0, y: 0, film: "worst", metric: start.metric, judged: start.right, draw: 1,
  };
  const stage = $("stage"), thumbs = $("thumbs"), split = make("input", {
    type: "range", min: 0, max: 100, value: 50, step: 1, className: "split", id: "split", ariaLabel: "Divider between left and right",
  });
  const number = (value, k) =>
    value === null ? "–" : typeof value === "string" ? "∞" : value.toFixed(metrics[k].digits);
  const picture = (source) => images[state.image].files[source];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // ---- drawing
  const layer = (source, side) =>
    make("div", { className: `layer ${side}` }, make("img", { src: picture(source), alt: sources[source].label, draggable: false }));
  const tag = (source, side) => make("span", { className: `tag ${side}`, textContent: sources[source].label });

  function drawStage() {
    const { width, height } = images[state.image];
    const focused = document.activeElement === split;
    const pane = (...inside) => {
      const node = make("div", { className: "pane" }, ...inside);
      node.style.aspectRatio = `${width} / ${height}`;
      return node;
    };
    stage.className = `stage ${state.view}`;
    if (state.view === "slider") {
      stage.replaceChildren(pane(
        layer(state.right, "right"), layer(state.left, "left"), tag(state.left, "left"), tag(state.right, "right"),
        split, make("div", { className: "divider" }),
      ));
      if (focused) split.focus();
    } else {
      const shown = state.view === "side" ? [state.left, state.right] : sources.map((_, i) => i).filter((i) => picture(i));
      stage.replaceChildren(...shown.map((source) => pane(layer(source, ""), tag(source, "left"))));
    }
    drawPlace();
  }

  function drawPlace() {
    const pane = stage.firstElementChild;
    stage.style.setProperty("--split", state.split);
    for (const name of ["zoom", "x", "y"]) stage.style.setProperty(`--${name}`, state[name]);
    stage.classList.toggle("zoomed", state.zoom > 1);
    // Pixels are shown as squares as soon as they are large: smoothing would hide what is compared.
    stage.classList.toggle("crisp", (pane.clientWidth / images[state.image].width) * state.zoom >= 1.8);
    split.value = Math.round(state.split * 100);
    split.setAttribute("aria-valuetext", `${split.value} % ${sources[state.left].label}`);
    $("zoom").textContent = `${Number(state.zoom.toFixed(1))}×`;
  }

  function drawNumbers() {
    const image = images[state.image];
    $("image-name").textContent = image.key;
    $("image-place").textContent = `${state.image + 1} of ${images.length}`;
    const best = metrics.map((metric, k) => {
      const values = sources.map((source, i) => (source.own ? image.numbers[i][k] : null)).filter((v) => typeof v === "number");
      return metric.higher === null || !values.length ? null : metric.higher ? Math.max(...values) : Math.min(...values);
    });
    $("numbers").replaceChildren(...sources.map((source, i) => make("tr", { className: i === state.left || i === state.right ? "shown" : "" },
      make("td", { className: "side", textContent: i === state.left ? "L" : i === state.right ? "R" : "" }),
      make("td", {}, make("i", { className: `dot m${source.colour}`, hidden: source.colour === null }),
        make("button", { type: "button", textContent: source.label, title: "Show on the right", onclick: () => set({ right: i }) })),
      ...metrics.map((_, k) => make("td", {
        textContent: number(image.numbers[i][k], k), className: best[k] !== null && source.own && image.numbers[i][k] === best[k] ? "best" : "",
      })))));
  }

  function order() {
    const all = images.map((_, i) => i);
    if (state.film === "random") {
      // A linear congruential shuffle: the same draw for everyone who opens the page.
      let seed = state.draw;
      const next = () => (seed = (seed * 1664525 + 1013904223) % 4294967296) / 4294967296;
      for (let i = all.length - 1; i > 0; i--) {
        const j = Math.floor(next() * (i + 1));
        [all[i], all[j]] = [all[j], all[i]];
      }
      return all.slice(0, 12);
    }
    if (state.film === "all" || state.metric === null) return all;
    const value = (i) => images[i].numbers[state.judged][state.metric];
    const sign = metrics[state.metric].higher ? 1 : -1;
    return all.filter((i) => typeof value(i) === "number").sort((a, b) => sign * (value(a) - value(b))).slice(0, 12);
  }

  function drawFilm() {
    $("judge").hidden = state.film !== "worst";
    $("draw").hidden = state.film !== "random";
    const k = state.metric;
    thumbs.replaceChildren(...order().map((i) => make("button",
      { type: "button", ariaCurrent: String(i === state.image), onclick: () => set({ image: i }) },
      make("img", { src: images[i].files[state.judged] || images[i].files[state.right] || images[i].files[0], alt: images[i].key, loading: "lazy" }),
      make("span", { textContent: k === null ? images[i].key : `${number(images[i].numbers[state.judged][k], k)} · ${images[i].key.split("/").pop()}`, title: images[i].key }))));
  }

  function set(change) {
    const moved = "image" in change && change.image !== state.image;
    Object.assign(state, change);
    if (moved && !$("lock").checked) Object.assign(state, { zoom: 1, x: 0, y: 0 });
    for (const side of ["left", "right"]) {
      if (!picture(state[side])) state[side] = sources.findIndex((_, i) => picture(i));
      $(side).value = state[side];
    }
    if (["image", "left", "right", "view"].some((name) => name in change)) { drawStage(); drawNumbers(); }
    if (["film", "metric", "judged", "draw"].some((name) => name in change)) drawFilm();
    for (const node of thumbs.children) node.ariaCurrent = "false";
    const here = order().indexOf(state.image);
    if (here >= 0) thumbs.children[here].ariaCurrent = "true";
  }

  // ---- zoom and pan: x and y are the left upper corner of what is seen, as shares of the image
  function zoomTo(zoom, atX = 0.5, atY = 0.5) {
    const wanted = clamp(zoom, 1, 16), hold = (at, from) => clamp(from + at / state.zoom - at / wanted, 0, 1 - 1 / wanted);
    Object.assign(state, { x: hold(atX, state.x), y: hold(atY, state.y), zoom: wanted });
    drawPlace();
  }
  function panBy(dx, dy) {
    const most = 1 - 1 / state.zoom;
    Object.assign(state, { x: clamp(state.x - dx / state.zoom, 0, most), y: clamp(state.y - dy / state.zoom, 0, most) });
    drawPlace();
  }
  const place = (event, pane) => {
    const box = pane.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };

  const pointers = new Map();
  let sliding = false, spread = 0;
  stage.addEventListener("pointerdown", (event) => {
    const pane = event.target.closest(".pane");
    if (!pane || event.button) return;
    pane.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event, pane));
    const [x] = place(event, pane);
    sliding = state.view === "slider" && (state.zoom === 1 || Math.abs(x - state.split) * pane.clientWidth < 28);
    spread = 0;
    if (sliding) { state.split = clamp(x, 0, 1); drawPlace(); split.focus({ preventScroll: true }); event.preventDefault(); }
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId), pane = event.target.closest(".pane");
    if (!before || !pane) return;
    const now = place(event, pane);
    pointers.set(event.pointerId, now);
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()], apart = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread) zoomTo((state.zoom * apart) / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      spread = apart;
    } else if (sliding) { state.split = clamp(now[0], 0, 1); drawPlace(); } else panBy(now[0] - before[0], now[1] - before[1]);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
  stage.addEventListener("dblclick", (event) => {
    const pane = event.target.closest(".pane");
    if (pane) zoomTo(state.zoom > 1 ? 1 : 4, ...place(event, pane));
  });
  stage.addEventListener("wheel", (event) => {
    const pane = event.target.closest(".pane");
    if (!pane || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    zoomTo(state.zoom * Math.exp(-event.deltaY / 200), ...place(event, pane));
  }, { passive: false });
  split.addEventListener("input", () => { state.split = split.value / 100; drawPlace(); });

  // ---- controls
  const step = (by) => {
    const shown = order(), here = shown.indexOf(state.image);
    if (shown.length) set({ image: shown[(here + by + shown.length) % shown.length] });
  };
  const swap = () => set({ left: state.right, right: state.left });
  const keys = { n: () => step(1), p: () => step(-1), s: swap, "+": () => zoomTo(state.zoom * 2), "=": () => zoomTo(state.zoom * 2), "-": () => zoomTo(state.zoom / 2), 0: () => zoomTo(1) };
  $("gallery").addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  for (const side of ["left", "right"]) {
    $(side).append(...sources.map((source, i) => make("option", { value: i, textContent: source.label })));
    $(side).addEventListener("change", (event) => set({ [side]: Number(event.target.value) }));
  }
  $("swap").addEventListener("click", swap);
  $("next").addEventListener("click", keys.n);
  $("previous").addEventListener("click", keys.p);
  $("in").addEventListener("click", keys["+"]);
  $("out").addEventListener("click", keys["-"]);
  $("reset").addEventListener("click", keys[0]);
  for (const name of ["view", "film"])
    for (const radio of document.querySelectorAll(`input[name="${name}"]`)) radio.addEventListener("change", () => set({ [name]: radio.value }));
  metrics.forEach((metric, k) => metric.higher !== null && $("metric").append(make("option", { value: k, textContent: metric.label, selected: k === state.metric })));
  sources.forEach((source, i) => source.own && $("judged").append(make("option", { value: i, textContent: source.label, selected: i === state.judged })));
  for (const name of ["metric", "judged"]) $(name).addEventListener("change", (event) => set({ [name]: Number(event.target.value) }));
  $("draw").addEventListener("click", () => set({ draw: state.draw + 1 }));
  addEventListener("resize", drawPlace);

  $("gallery").hidden = false;
  drawFilm();
  set({ image: order()[0] ?? 0, film: state.film });
})();

// The plots: one axis at a time.
for (const radio of document.querySelectorAll('input[name="axis"]'))
  radio.addEventListener("change", () => {
    for (const plot of document.querySelectorAll("[data-axis]")) plot.hidden = plot.dataset.axis !== radio.value;
  });

// Tables and strips that are wider than the page: they fade where there is more, and a line says so.
for (const wide of document.querySelectorAll(".scroll, .strip")) {
  const hint = document.createElement("p");
  hint.className = "more";
  hint.textContent = "scroll sideways for more ↔";
  hint.setAttribute("aria-hidden", "true");
  wide.after(hint);
  const look = () => {
    const rest = wide.scrollWidth - wide.clientWidth;
    wide.classList.toggle("more-left", rest > 2 && wide.scrollLeft > 2);
    wide.classList.toggle("more-right", rest > 2 && wide.scrollLeft < rest - 2);
  };
  wide.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(wide);
  for (const inner of wide.children) new ResizeObserver(look).observe(inner);
  look();
}

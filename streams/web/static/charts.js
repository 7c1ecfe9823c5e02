// Draws each block of chart data (see streams/reporting/charts.py) with the vendored library. Nothing is loaded, and no text is
// taken as markup: tooltips are drawn, not written into the page.
"use strict";
(() => {
  const FONT = 'system-ui, -apple-system, "Segoe UI", sans-serif';
  const TONES = ["one", "two", "good", "warn", "bad", "muted"];
  const SYMBOLS = { one: "circle", two: "diamond", good: "circle", warn: "emptyCircle", bad: "rect", muted: "triangle" };
  const DASHES = ["solid", [8, 4], [2, 3]];
  const CHARACTER = 6.6, ROW = 15, DROP = 16;
  const drawn = new Map();

  // Writes a number as Python's format does for the forms that charts have: sign, separators, digits, and one of %, f and g.
  function formatValue(value, form) {
    const [, plus, comma, digits, kind] = /^(\+?)(,?)(?:\.(\d))?([%fg]?)$/.exec(form);
    const number = kind === "%" ? 100 * value : value;
    let text;
    if (kind === "%" || kind === "f") text = Math.abs(number).toLocaleString("en-US", fraction(digits ?? 6, comma));
    else text = general(Math.abs(number), Number(digits ?? 6) || 1, comma);
    const sign = number < 0 && /[1-9]/.test(text) ? "\u2212" : plus;
    return sign + text + (kind === "%" ? "%" : "");
  }

  const fraction = (digits, comma) =>
    ({ minimumFractionDigits: Number(digits), maximumFractionDigits: Number(digits), useGrouping: comma === ",", roundingMode: "halfEven" });

  function general(number, digits, comma) {
    const exponent = number === 0 ? 0 : Number(number.toExponential(digits - 1).split("e")[1]);
    if (exponent < -4 || exponent >= digits) return number.toExponential(digits - 1).replace(/\.0+e|(\.\d*?)0+e/, "$1e").replace("-", "\u2212");
    return number.toLocaleString("en-US", { maximumSignificantDigits: digits, useGrouping: comma === ",", roundingMode: "halfEven" });
  }

  // Colours are those that the style sheet gives the tones now: light or dark, screen or paper.
  function palette(figure) {
    const probe = figure.appendChild(document.createElement("span"));
    const colours = {};
    for (const name of [...TONES, "ink", "soft", "rule", "card"]) {
      probe.className = `colour ${name}`;
      colours[name] = getComputedStyle(probe).color;
    }
    probe.remove();
    return colours;
  }

  const faded = (colour, opacity) => echarts.color.modifyAlpha(colour, opacity);

  function common(chart, colours) {
    return {
      animation: false,
      textStyle: { fontFamily: FONT, color: colours.soft },
      aria: { enabled: true, label: { description: `${chart.title}. ${chart.description}` }, decal: { show: true } },
      tooltip: {
        renderMode: "richText",
        confine: true,
        backgroundColor: colours.card,
        borderColor: colours.rule,
        textStyle: { color: colours.ink, fontSize: 13, fontFamily: FONT },
        axisPointer: { lineStyle: { color: colours.soft }, crossStyle: { color: colours.soft } },
      },
    };
  }

  const axisStyle = (colours) => ({
    axisLine: { lineStyle: { color: colours.soft } },
    axisTick: { lineStyle: { color: colours.soft } },
    axisLabel: { color: colours.soft, fontSize: 12, hideOverlap: true },
    splitLine: { lineStyle: { color: colours.rule } },
    nameTextStyle: { color: colours.soft, fontSize: 12 },
  });

  const halo = (colours) => ({ textBorderColor: colours.card, textBorderWidth: 3 });

  // Labels of limits are beside the plot where there is room, the upper one above its line and the others below.
  function limitLines(chart, colours, axis, isInside = false) {
    const sorted = [...chart.lines].sort((a, b) => b.value - a.value);
    const inside = (index) => ({ position: index === 0 ? "insideEndTop" : "insideEndBottom" });
    const beside = (index) => ({ position: "end", verticalAlign: index === 0 ? "bottom" : "top" });
    const place = (index) => (axis === "xAxis" ? { position: "start" } : isInside ? inside(index) : beside(index));
    return {
      silent: true,
      symbol: "none",
      data: sorted.map((line, index) => ({
        [axis]: line.value,
        lineStyle: { color: colours[line.tone], type: [6, 4], width: 1.2 },
        label: { show: true, formatter: () => line.label, ...place(index), color: colours[line.tone], fontSize: 12, distance: 3, ...halo(colours) },
      })),
    };
  }

  // Estimates with intervals: one row each, with a label beside it, or above it where the chart is narrow.
  function intervalsOption(chart, colours, width) {
    const room = isNarrow(width) ? 0 : Math.min(340, 0.36 * width);
    const ends = chart.intervals.flatMap((item) => item.values).concat(chart.lines.map((line) => line.value), 0);
    const [low, high] = extent(ends.filter((value) => value !== null));
    const style = axisStyle(colours);
    return {
      ...common(chart, colours),
      grid: { left: room + 14, right: 24, top: chart.lines.length ? 26 : 12, bottom: 30 },
      xAxis: { type: "value", min: low, max: high, ...style, splitNumber: Math.max(2, Math.round((width - room) / 110)), axisLabel: { ...style.axisLabel, ...innerLabels(chart.form) } },
      yAxis: { type: "category", inverse: true, show: false, data: chart.intervals.map((_, index) => index) },
      tooltip: { ...common(chart, colours).tooltip, trigger: "item", formatter: (item) => chart.intervals[item.dataIndex]?.text ?? "" },
      series: [
        {
          type: "custom",
          clip: false,
          data: chart.intervals.map((item, index) => [...item.values, index]),
          encode: { x: [0, 1, 2], y: 3 },
          renderItem: (_, api) => intervalRow(chart, colours, api, width, room),
          markLine: withZero(limitLines(chart, colours, "xAxis"), colours),
        },
        {
          type: "scatter",
          symbolSize: 12,
          symbolOffset: [0, isNarrow(width) ? DROP : 0],
          data: chart.intervals.map((item, index) => ({
            value: [item.values[1], index],
            symbol: SYMBOLS[item.tone],
            itemStyle: { color: colours[item.tone], borderWidth: item.tone === "warn" ? 2.5 : 0 },
          })),
        },
      ],
    };
  }

  const isNarrow = (width) => width < 480;
  const innerLabels = (form) => ({ showMinLabel: false, showMaxLabel: false, formatter: (value) => formatValue(value, form) });

  const withZero = (lines, colours) => ({
    ...lines,
    data: [{ xAxis: 0, lineStyle: { color: colours.soft, type: "solid", width: 1 }, label: { show: false } }, ...lines.data],
  });

  function intervalRow(chart, colours, api, width, room) {
    const item = chart.intervals[api.value(3)];
    const [[left, middle], [right]] = [api.coord([api.value(0), api.value(3)]), api.coord([api.value(2), api.value(3)])];
    const y = middle + (room ? 0 : DROP);
    const line = (x1, y1, x2, y2, lineWidth) => ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: colours[item.tone], lineWidth, lineCap: "round" } });
    const text = (content, colour, weight, at) => ({
      type: "text",
      style: { text: content, x: room || 8, y: at, align: room ? "right" : "left", verticalAlign: "middle", fill: colour, font: `${weight} 12.5px ${FONT}`, width: room ? room - 8 : width - 16, overflow: "truncate" },
    });
    const [nameY, noteY] = room ? (item.note ? [middle - 8, middle + 8] : [middle, middle]) : [middle - 18, middle - 3];
    const labels = [text(item.label, colours.ink, 600, nameY), ...(item.note ? [text(item.note, colours.soft, 400, noteY)] : [])];
    return { type: "group", children: [line(left, y, right, y, 3), line(left, y - 6, left, y + 6, 1.5), line(right, y - 6, right, y + 6, 1.5), ...labels] };
  }

  function extent(values) {
    const low = Math.min(...values), high = Math.max(...values);
    const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    return [low - margin, high + margin];
  }

  // The data of curves over time or over a number, with their bands, limits, and markers in a strip above.
  function curvesOption(chart, colours, width) {
    const style = axisStyle(colours);
    const [low, high] = horizontalExtent(chart);
    const right = isNarrow(width) ? 18 : Math.max(18, 12 + CHARACTER * Math.max(0, ...chart.lines.map((line) => line.label.length)));
    const grid = { left: 58, right, bottom: chart.kind === "times" ? 62 : 48 };
    const placed = placeMarkers(chart, low, high, width - grid.left - grid.right);
    const strip = ROW * (1 + Math.max(-1, ...placed.map((marker) => marker.row)));
    const top = (chart.curves.length > 1 ? 30 : 10) + strip;
    const x = {
      type: chart.kind === "times" ? "time" : chart.x.log ? "log" : "value",
      min: low,
      max: high,
      ...style,
      splitLine: { show: false },
    };
    const reach = chart.curves.flatMap((curve) => curve.points.filter((point) => point[1] !== null)).flatMap(([, value, margin]) => [value - (margin ?? 0), value + (margin ?? 0)]);
    const [bottom, highest] = extent(reach.concat(chart.lines.map((line) => line.value)));
    return {
      ...common(chart, colours),
      useUTC: true,
      legend: { show: chart.curves.length > 1, top: 0, left: 8, type: "scroll", data: chart.curves.map((curve) => curve.label), textStyle: { color: colours.ink, fontSize: 12 }, pageTextStyle: { color: colours.soft }, pageIconColor: colours.one, itemWidth: 28 },
      grid: [{ ...grid, top }, { left: grid.left, right: grid.right, top: top - strip, height: Math.max(1, strip) }],
      xAxis: [
        { ...x, gridIndex: 0, name: chart.x.label, nameLocation: "middle", nameGap: 24, axisLabel: { ...style.axisLabel, ...horizontalLabels(chart) }, splitNumber: Math.max(2, Math.round(width / 110)) },
        { ...x, gridIndex: 1, show: false },
      ],
      yAxis: [
        { type: "value", gridIndex: 0, min: bottom, max: highest, ...style, axisLabel: { ...style.axisLabel, ...innerLabels(chart.form) } },
        { type: "value", gridIndex: 1, min: 0, max: Math.max(1, strip / ROW), inverse: true, show: false },
      ],
      dataZoom: [
        { type: "inside", xAxisIndex: [0, 1], filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseMove: "shift", moveOnMouseWheel: false, preventDefaultMouseMove: false },
        ...(chart.kind === "times" ? [{ type: "slider", xAxisIndex: [0, 1], filterMode: "none", height: 12, bottom: 3, left: grid.left, right: grid.right, showDataShadow: false, showDetail: false, borderColor: colours.rule, fillerColor: faded(colours.one, 0.12), handleStyle: { color: colours.card, borderColor: colours.soft }, moveHandleSize: 0, brushSelect: false }] : []),
      ],
      tooltip: { ...common(chart, colours).tooltip, trigger: "axis", formatter: (points) => tooltipText(points) },
      series: [...chart.curves.flatMap((curve, index) => curveSeries(chart, curve, index, colours, isNarrow(width))), ...markerSeries(chart, placed, colours)],
    };
  }

  function horizontalExtent(chart) {
    const places = chart.curves.flatMap((curve) => curve.points.map((point) => point[0])).concat(chart.markers.map((marker) => marker.x));
    if (chart.x.log) return [Math.min(...places) / 1.15, Math.max(...places) * 1.15];
    const low = Math.min(...places), high = Math.max(...places), margin = (high - low) * 0.02 || 1000;
    return chart.kind === "times" ? [low - margin, high + margin] : extent(places);
  }

  const horizontalLabels = (chart) => (chart.kind === "times" ? {} : innerLabels(chart.x.form));

  const tooltipText = (points) => [...new Set(points.map((point) => point.data?.text).filter(Boolean))].slice(0, 12).join("\n");

  function curveSeries(chart, curve, index, colours, isInside) {
    const colour = colours[curve.tone];
    const points = curve.points.map(([x, value, , text]) => ({ value: [x, value ?? "-"], text: value === null ? "" : text }));
    const line = {
      type: "line",
      name: curve.label,
      data: points,
      symbol: SYMBOLS[curve.tone],
      symbolSize: points.length > 200 ? 0 : 6,
      showAllSymbol: true,
      connectNulls: false,
      itemStyle: { color: colour },
      lineStyle: { color: colour, width: 2, type: DASHES[index % DASHES.length] },
      emphasis: { disabled: true },
      markLine: index === 0 ? limitLines(chart, colours, "yAxis", isInside) : undefined,
    };
    const segments = unbroken(curve.points).filter((segment) => segment.some((point) => point[2]));
    return [line, ...segments.map((segment) => bandSeries(curve, segment, colour))];
  }

  function unbroken(points) {
    const segments = [[]];
    for (const point of points) point[1] === null ? segments.push([]) : segments.at(-1).push(point);
    return segments.filter((segment) => segment.length);
  }

  function bandSeries(curve, segment, colour) {
    const corners = [...segment.map(([x, value, margin]) => [x, value + (margin ?? 0)]), ...segment.toReversed().map(([x, value, margin]) => [x, value - (margin ?? 0)])];
    return {
      type: "custom",
      name: curve.label,
      silent: true,
      clip: true,
      z: 1,
      data: [segment[0].slice(0, 2)],
      tooltip: { show: false },
      renderItem: (_, api) => ({ type: "polygon", shape: { points: corners.map((corner) => api.coord(corner)) }, style: { fill: faded(colour, 0.16) } }),
    };
  }

  // Labels that would overlap are put into different rows, as few as that takes; they are left of markers near the right end.
  function placeMarkers(chart, low, high, pixels) {
    const ends = [], placed = [];
    const at = (x) => (chart.x.log ? Math.log(x / low) / Math.log(high / low) : (x - low) / (high - low)) * pixels;
    const extents = chart.markers.map((marker, index) => {
      const length = CHARACTER * marker.label.length + 20, x = at(marker.x);
      const position = x + length <= pixels ? "right" : "left";
      return { index, position, start: position === "right" ? x - 6 : x - length, end: position === "right" ? x + length : x + 6 };
    });
    for (const { index, position, start, end } of extents.sort((a, b) => a.start - b.start)) {
      const free = ends.findIndex((taken) => taken <= start);
      const row = free < 0 ? ends.length : free;
      ends[row] = end;
      placed[index] = { row, position };
    }
    return placed;
  }

  function markerSeries(chart, placed, colours) {
    if (!chart.markers.length) return [];
    const strip = {
      type: "scatter",
      name: "events",
      xAxisIndex: 1,
      yAxisIndex: 1,
      symbol: "triangle",
      symbolRotate: 180,
      symbolSize: 8,
      data: chart.markers.map((marker, index) => ({
        value: [marker.x, placed[index].row + 0.5],
        itemStyle: { color: colours[marker.tone] },
        label: { show: true, position: placed[index].position, formatter: () => marker.label, color: colours[marker.tone], fontSize: 12, ...halo(colours) },
      })),
      tooltip: { trigger: "item", formatter: (item) => `${chart.markers[item.dataIndex].label}, ${chart.markers[item.dataIndex].at}` },
    };
    const lines = {
      type: "line",
      data: [],
      markLine: {
        silent: true,
        symbol: "none",
        label: { show: false },
        data: chart.markers.map((marker) => ({ xAxis: marker.x, lineStyle: { color: colours[marker.tone], type: [2, 3], width: 1 } })),
      },
    };
    return [strip, lines];
  }

  const isEmpty = (chart) => !chart.intervals.length && !chart.curves.some((curve) => curve.points.some((point) => point[1] !== null));
  const option = (chart, colours, width) => (chart.kind === "intervals" ? intervalsOption : curvesOption)(chart, colours, width);
  const heightOf = (chart, width) => (chart.kind === "intervals" ? 60 + (isNarrow(width) ? 62 : 46) * chart.intervals.length : 290 + ROW * Math.min(4, chart.markers.length));

  function draw(figure) {
    const chart = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const place = figure.querySelector(".plot");
    if (isEmpty(chart)) return;
    const colours = palette(figure);
    const height = heightOf(chart, place.clientWidth);
    place.style.height = `${height}px`;
    const instance = echarts.getInstanceByDom(place) ?? echarts.init(place, null, { renderer: "svg", height });
    instance.resize({ height });
    instance.setOption(option(chart, colours, instance.getWidth()), { notMerge: true });
    place.setAttribute("role", "img");
    drawn.set(figure, { chart, instance });
    offerFiles(figure);
  }

  function offerFiles(figure) {
    const bar = figure.querySelector(".files");
    if (!bar || bar.childElementCount) return;
    for (const [kind, make] of [["PNG", pictureOf], ["SVG", drawingOf], ["CSV", tableOf]]) {
      const button = bar.appendChild(document.createElement("button"));
      button.type = "button";
      button.textContent = kind;
      button.setAttribute("aria-label", `Download ${drawn.get(figure).chart.title} as ${kind}`);
      button.addEventListener("click", async () => save(await make(figure), `${fileName(drawn.get(figure).chart.title)}.${kind.toLowerCase()}`));
    }
  }

  const fileName = (title) => title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");

  function detached(figure, renderer) {
    const { chart } = drawn.get(figure);
    const [width, height] = [960, heightOf(chart, 960)];
    const canvas = renderer === "canvas" ? document.createElement("canvas") : null;
    const instance = echarts.init(canvas, null, { renderer, ssr: renderer === "svg", width, height, devicePixelRatio: 2 });
    const colours = palette(figure);
    instance.setOption({ ...option(chart, colours, width), backgroundColor: colours.card });
    return { instance, canvas };
  }

  async function pictureOf(figure) {
    const { instance, canvas } = detached(figure, "canvas");
    const blob = await new Promise((resolve) => instance.renderToCanvas({ pixelRatio: 2 }).toBlob(resolve, "image/png"));
    instance.dispose();
    return blob;
  }

  function drawingOf(figure) {
    const { instance } = detached(figure, "svg");
    const blob = new Blob([instance.renderToSVGString()], { type: "image/svg+xml" });
    instance.dispose();
    return blob;
  }

  function tableOf(figure) {
    const cell = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const rows = [...figure.querySelectorAll("table tr")].map((row) => [...row.cells].map((item) => cell(item.textContent.trim())).join(","));
    return new Blob([`${rows.join("\r\n")}\r\n`], { type: "text/csv" });
  }

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  // Draws what is new on the page, and drops what is no longer part of it.
  function drawAll() {
    for (const [figure, { instance }] of drawn) {
      if (!figure.isConnected) {
        instance.dispose();
        drawn.delete(figure);
      }
    }
    for (const figure of document.querySelectorAll("figure[data-chart]")) draw(figure);
  }

  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 120);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("paper");
    drawAll();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    drawAll();
  });
  window.twinstream = { drawCharts: drawAll, formatValue };
  drawAll();
})();

// Curves that grow: the browser keeps the points, thins and smooths them, and draws them over steps, tokens or time.
import { echarts } from "nicegui-echart";

const MOST_POINTS = 4000; // of a line; older ones are thinned, by half, beyond it
const COLOURS = 6;
const DASHES = ["solid", "dashed", "dotted", [10, 3, 2, 3]];
const SMOOTHNESS = 0.9;

const count = (value) => {
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= limit) return `${+(value / limit).toPrecision(3)}${unit}`;
  return `${+value.toPrecision(3)}`;
};
const tick = (value) => (Math.abs(value) >= 1e4 ? count(value) : `${+value.toPrecision(6)}`);
const shown = (value) => (value == null || Number.isNaN(value) ? "—" : Number(value).toLocaleString("en", { maximumSignificantDigits: 4 }));
const clock = (seconds) => {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds % 60)];
  const two = (part) => String(part).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
};
const AXES = { step: ["step", count], tokens: ["tokens", count], seconds: ["time", clock] };
const COLUMNS = ["step", "tokens", "seconds", "value"];

function smoothed(values) {
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = SMOOTHNESS * mean + (1 - SMOOTHNESS) * value;
    weight = SMOOTHNESS * weight + (1 - SMOOTHNESS);
    return mean / weight; // without the weight of a beginning at nought
  });
}

export default {
  template: `<div role="img" :aria-label="label" class="chart curves"></div>`,
  props: { name: String, lines: String, labels: Array },
  watch: {
    lines() {
      this.put();
    },
  },
  data() {
    return { label: this.name };
  },
  created() {
    this.points = {};
    this.view = { x: "step", isLog: false, isSmooth: false };
  },
  mounted() {
    this.chart = echarts.init(this.$el);
    this.put();
    this.sizes = new ResizeObserver(() => this.chart.resize());
    this.sizes.observe(this.$el);
    this.theme = new MutationObserver(() => this.later()); // its colours are others now
    this.theme.observe(document.body, { attributeFilter: ["class"] });
  },
  beforeUnmount() {
    this.sizes.disconnect();
    this.theme.disconnect();
    this.chart.dispose();
  },
  methods: {
    put() {
      this.points = {};
      this.add(JSON.parse(this.lines || "{}"));
    },
    add(lines, anew = []) {
      for (const name of anew) delete this.points[name];
      for (const [name, columns] of Object.entries(lines)) {
        const line = (this.points[name] ??= { step: [], tokens: [], seconds: [], value: [] });
        for (const column of COLUMNS) line[column].push(...columns[column]);
        if (line.step.length > MOST_POINTS)
          for (const column of COLUMNS) line[column] = line[column].filter((_, at, all) => at % 2 || at > all.length / 2);
      }
      this.later();
    },
    look(view) {
      Object.assign(this.view, view);
      this.later();
    },
    later() {
      if (this.waits) return;
      this.waits = requestAnimationFrame(() => {
        this.waits = null;
        if (!this.$el.isConnected) return;
        this.chart.setOption(this.options(), { notMerge: true });
        this.label = this.inWords();
      });
    },
    places() {
      return [...new Set([...this.labels, ...Object.keys(this.points)])]; // whichever came first, colours stay the same
    },
    inWords() {
      const lines = this.places()
        .filter((name) => this.points[name])
        .map((name) => `${name} ${this.points[name].value.length} points, last ${shown(this.points[name].value.at(-1))}`);
      return `${this.name}: ${lines.join("; ") || "no points"}`;
    },
    options() {
      const colour = (name) => window.mlPage.colour(name);
      const [axisName, told] = AXES[this.view.x];
      const small = { color: colour("muted"), fontSize: 11 };
      const line = { lineStyle: { color: colour("line") } };
      const places = this.places();
      const names = places.filter((name) => this.points[name]);
      const isEmpty = !names.length;
      return {
        animation: false,
        grid: { left: 4, right: 18, top: names.length > 1 ? 34 : 12, bottom: 24, containLabel: true },
        legend: { show: names.length > 1, data: names, top: 0, left: 0, type: "scroll", itemWidth: 22, itemHeight: 8, pageIconColor: colour("muted"),
          pageTextStyle: small, textStyle: { color: colour("ink"), fontSize: 12, width: Math.min(180, this.$el.offsetWidth / 3), overflow: "truncate" }, tooltip: { show: true } },
        tooltip: { trigger: "axis", backgroundColor: colour("card"), borderColor: colour("line"), confine: true,
          textStyle: { color: colour("ink"), fontSize: 12 }, valueFormatter: shown, axisPointer: { lineStyle: { color: colour("muted") } } },
        graphic: isEmpty
          ? [{ type: "text", left: "center", top: "middle", silent: true, style: { text: "No points", fill: colour("muted"), fontSize: 13 } }]
          : [],
        xAxis: { type: "value", name: axisName, nameLocation: "middle", nameGap: 24, nameTextStyle: small, scale: true, splitLine: { show: false },
          axisLine: line, axisTick: line, axisLabel: { ...small, formatter: told, hideOverlap: true }, minInterval: this.view.x === "step" ? 1 : undefined,
          axisPointer: { label: { formatter: ({ value }) => `${axisName} ${told(value)}` } }, show: !isEmpty },
        yAxis: { type: this.view.isLog ? "log" : "value", scale: true, axisLabel: { ...small, formatter: tick }, splitLine: line,
          minorSplitLine: { show: false }, show: !isEmpty },
        series: names.flatMap((name) => {
          const at = places.indexOf(name);
          return this.drawn(name, at, colour(`series-${(at % COLOURS) + 1}`));
        }),
      };
    },
    drawn(name, at, colour) {
      const line = this.points[name];
      const points = (values) => values.map((value, row) => [line[this.view.x][row], this.view.isLog && value <= 0 ? null : value]);
      const dash = DASHES[Math.floor(at / COLOURS) % DASHES.length];
      const isShort = line.step.length < 12;
      const look = (width, opacity) => ({
        type: "line", sampling: "lttb", showSymbol: isShort && width > 1, symbolSize: 5, emphasis: { disabled: true },
        lineStyle: { width, color: colour, type: dash, opacity }, itemStyle: { color: colour },
      });
      const main = { ...look(2, 1), name, data: points(this.view.isSmooth ? smoothed(line.value) : line.value) };
      if (!this.view.isSmooth) return [main];
      return [{ ...look(1, 0.3), name: `${name}: each`, data: points(line.value), silent: true, tooltip: { show: false } }, main];
    },
  },
};

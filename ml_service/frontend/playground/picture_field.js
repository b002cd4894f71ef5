// The picture never makes a round trip: the browser shows its own file, and lays the boxes over it as an SVG.
const TAG_PX = 11;

export default {
  template: `
    <div class="picture-field">
      <div v-if="!url" class="line">
        <q-btn outline dense no-caps class="button" icon="add_photo_alternate" label="Add a picture" @click="choose" />
        <span class="hint">of text; or drop or paste one: what is read in it goes behind the prompt</span>
      </div>
      <template v-else>
        <div class="line">
          <span class="picture-name">{{ name }}</span>
          <span class="hint">{{ said }}</span>
          <q-btn flat dense no-caps class="button" icon="close" label="Remove" @click="removed" />
        </div>
        <p v-if="isUnseen" class="hint">Your browser cannot show this kind of picture; the service may read it all the same.</p>
        <div v-else ref="stage" class="picture-stage" @mouseleave="hovered = null">
          <img ref="image" :src="url" :alt="'Picture: ' + name" @load="measure" @error="isUnseen = true" />
          <svg v-if="width && lines.length" class="picture-boxes" :viewBox="'0 0 ' + width + ' ' + height" role="list"
            aria-label="What was read, in reading order">
            <g v-for="(line, at) in lines" :key="at" role="listitem" tabindex="0" :aria-label="account(line, at)"
              :class="'box ' + sure(line)" @mouseenter="hovered = at" @focus="hovered = at" @blur="hovered = null"
              @keydown.esc="hovered = null">
              <polygon :points="line.box.map((point) => point.join()).join(' ')" />
              <rect :x="tag(line, at).x" :y="tag(line, at).y" :width="tag(line, at).width" :height="unit * 1.35" :rx="unit * 0.3" />
              <text :x="tag(line, at).x + tag(line, at).width / 2" :y="tag(line, at).y + unit" :font-size="unit"
                text-anchor="middle">{{ at + 1 }}</text>
            </g>
          </svg>
          <div v-if="hovered !== null && lines[hovered]" class="picture-tip" role="tooltip" :style="under(lines[hovered])">
            <span class="mono">{{ lines[hovered].text }}</span> <b>{{ percent(lines[hovered]) }}</b>
          </div>
        </div>
        <p v-if="lines.length && !isUnseen" class="legend hint">
          <span class="box-key good"></span>95 % sure and more <span class="box-key busy"></span>80 % and more
          <span class="box-key bad"></span>less
        </p>
      </template>
      <input ref="file" type="file" accept="image/*,.tif,.tiff" hidden @change="chosen" />
      <slot></slot>
    </div>`,
  props: { upload: Number, place: String },
  data() {
    return { url: null, name: "", said: "", isUnseen: false, width: 0, height: 0, unit: 1, lines: [], hovered: null };
  },
  mounted() {
    this.resized = new ResizeObserver(this.measure);
    document.addEventListener("paste", this.pasted);
    this.$nextTick(() => {
      this.target = document.getElementById(this.$props.place);
      this.target?.addEventListener("dragover", this.over);
      this.target?.addEventListener("dragleave", this.out);
      this.target?.addEventListener("drop", this.dropped);
    });
  },
  unmounted() {
    this.resized.disconnect();
    document.removeEventListener("paste", this.pasted);
    if (this.url) URL.revokeObjectURL(this.url);
  },
  methods: {
    choose() {
      this.$refs.file.value = "";
      this.$refs.file.click();
    },
    chosen(event) {
      this.take(event.target.files[0]);
    },
    over(event) {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      this.target.classList.add("dropping");
    },
    out(event) {
      if (!this.target.contains(event.relatedTarget)) this.target.classList.remove("dropping");
    },
    dropped(event) {
      this.target.classList.remove("dropping");
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.take(event.dataTransfer.files[0]);
    },
    pasted(event) {
      if (document.querySelector(".q-dialog")) return;
      const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      this.take(file);
    },
    take(file) {
      if (!file) return;
      this.clear();
      Object.assign(this, { url: URL.createObjectURL(file), name: file.name, said: `${Math.ceil(file.size / 1024)} KiB` });
      this.$emit("picked", file.name);
      runMethod(this.upload, "reset", []);
      runMethod(this.upload, "addFiles", [[file]]);
    },
    clear() {
      this.resized.disconnect();
      if (this.url) URL.revokeObjectURL(this.url);
      Object.assign(this, { url: null, isUnseen: false, width: 0, lines: [], hovered: null });
    },
    removed() {
      this.clear();
      this.$emit("removed");
    },
    draw(lines) {
      this.lines = lines;
      this.hovered = null;
    },
    measure() {
      const image = this.$refs.image;
      if (!image?.naturalWidth) return;
      this.resized.observe(image);
      this.width = image.naturalWidth;
      this.height = image.naturalHeight;
      this.unit = (TAG_PX * image.naturalWidth) / Math.max(image.clientWidth, 1); // tags keep their size on the screen
    },
    left(line) {
      return Math.min(...line.box.map(([x]) => x));
    },
    top(line) {
      return Math.min(...line.box.map(([, y]) => y));
    },
    tag(line, at) {
      const width = this.unit * (0.7 + 0.62 * String(at + 1).length);
      return { width, x: Math.max(0, this.left(line) - width), y: this.top(line) };
    },
    under(line) {
      const bottom = Math.max(...line.box.map(([, y]) => y));
      return { left: `${Math.min((100 * this.left(line)) / this.width, 60)}%`, top: `${(100 * bottom) / this.height}%` };
    },
    percent(line) {
      return `${(line.confidence * 100).toFixed(1)} %`;
    },
    sure(line) {
      return line.confidence >= 0.95 ? "good" : line.confidence >= 0.8 ? "busy" : "bad";
    },
    account(line, at) {
      return `${at + 1}: ${line.text}, ${this.percent(line)} sure`;
    },
  },
};

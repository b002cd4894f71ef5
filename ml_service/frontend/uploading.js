// Files or a text, kept in the browser until they are sent; progress, and an end to it, are the browser's own.
const size = (bytes) => {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < 3) [bytes, unit] = [bytes / 1024, unit + 1];
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
};
const seconds = (s) => (s < 90 ? `${Math.max(1, Math.round(s))} s` : `${Math.round(s / 60)} min`);
const BROKEN = { status: 0, body: '{"detail": "the connection broke off before an answer came"}' };
const PICKED_AFTER_MS = 300; // somebody types

export default {
  template: `
    <div class="uploader">
      <div class="uploader-ways" role="group" aria-label="What to send">
        <button type="button" :aria-pressed="!isText" :disabled="busy" @click="turn(false)">{{ multiple ? "Files" : "File" }}</button>
        <button type="button" :aria-pressed="isText" :disabled="busy" @click="turn(true)">Paste text</button>
      </div>
      <label v-if="!isText" class="drop" :class="{ over, busy }" @dragover.prevent="over = true" @dragleave="over = false"
        @drop.prevent="over = false; add($event.dataTransfer.files)">
        <input type="file" class="drop-input" :multiple="multiple" :accept="kinds.join(',')" :disabled="busy" ref="input"
          @change="add($event.target.files); $event.target.value = ''">
        <span class="drop-words"><b>Drop {{ multiple ? "files" : "a file" }} here</b>, or <u>choose</u> {{ multiple ? "them" : "one" }}</span>
        <span class="hint">{{ kinds.join(" ") }}</span>
      </label>
      <ul v-if="!isText && files.length" class="picked">
        <li v-for="(file, at) in files" :key="at">
          <span class="picked-name" :title="file.name">{{ file.name }}</span><span class="hint">{{ sized(file.size) }}</span>
          <button type="button" :aria-label="'Remove ' + file.name" :disabled="busy" @click="remove(at)">×</button>
        </li>
      </ul>
      <template v-if="isText">
        <textarea class="pasted" v-model="text" rows="6" :disabled="busy" aria-label="Text" spellcheck="false"
          placeholder="Paste or type here"></textarea>
        <label class="line hint"><input type="checkbox" v-model="byLine" :disabled="busy"> Each line is a text of its own
          <span v-if="text">({{ texts().length.toLocaleString("en") }})</span></label>
      </template>
      <div class="sending" :class="{ shown: busy }">
        <div class="bar" role="progressbar" aria-label="Progress" :aria-valuenow="sent < 1 ? Math.round(sent * 100) : undefined"
          :class="{ endless: busy && sent >= 1 }"><div :style="{ width: sent * 100 + '%' }"></div></div>
        <div class="line"><span class="hint" role="status">{{ told }}</span>
          <button type="button" class="give-up" v-if="busy && sent < 1" @click="giveUp()">Cancel</button></div>
      </div>
    </div>
  `,
  props: { to: String, field: String, kinds: Array, multiple: Boolean, work: String, head: Number },
  emits: ["picked", "answered"],
  data: () => ({ files: [], text: "", isText: false, byLine: false, over: false, busy: false, sent: 0, told: "" }),
  watch: {
    text() {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.tell(), PICKED_AFTER_MS);
    },
  },
  beforeUnmount() {
    this.end();
  },
  methods: {
    sized: size,
    turn(isText) {
      this.isText = isText;
      this.tell();
    },
    add(files) {
      if (this.busy || !files.length) return;
      this.files = this.multiple ? [...this.files, ...files] : [files[0]];
      this.tell();
    },
    remove(at) {
      this.files.splice(at, 1);
      this.tell();
    },
    fill(text) {
      [this.isText, this.byLine, this.text] = [true, true, text];
    },
    clear() {
      [this.files, this.text] = [[], ""];
      this.tell();
    },
    texts() {
      return this.byLine ? this.text.split("\n").filter((line) => line.trim()) : this.text.trim() ? [this.text] : [];
    },
    async tell() {
      clearTimeout(this.typing);
      if (this.isText) {
        this.$emit("picked", { names: [], bytes: this.texts().join("").length, is_text: true, head: "" });
        return;
      }
      const [first] = this.files;
      const bytes = new Uint8Array(first ? await first.slice(0, this.head).arrayBuffer() : 0);
      let head = "";
      for (let at = 0; at < bytes.length; at += 8192) head += String.fromCharCode(...bytes.subarray(at, at + 8192));
      const names = this.files.map((file) => file.name);
      const whole = this.files.reduce((sum, file) => sum + file.size, 0);
      this.$emit("picked", { names, bytes: whole, is_text: false, head: btoa(head) });
    },
    send(fields, prefer) {
      if (this.busy) return;
      const request = (this.request = new XMLHttpRequest());
      request.open("POST", `/ui/send/${this.to}`);
      request.setRequestHeader("X-Page", "1");
      if (prefer) request.setRequestHeader("Prefer", prefer);
      [this.busy, this.sent, this.began, this.told] = [true, 0, performance.now(), "Sending…"];
      window.addEventListener("beforeunload", this.hold);
      request.upload.onprogress = (event) => this.progress(event.loaded, event.total);
      request.upload.onload = () => this.wait();
      request.onload = () => this.answer(this.opened(request.status, request.responseText));
      request.onerror = () => this.answer(BROKEN);
      request.onabort = () => this.answer(null);
      request.send(this.form(fields));
    },
    opened(status, body) {
      return status === 200 ? JSON.parse(body) : { status, body }; // something before the page has refused it
    },
    form(fields) {
      const form = new FormData();
      for (const [name, value] of Object.entries(fields))
        form.append(name, typeof value === "string" ? value : JSON.stringify(value));
      const rows = () => new File(this.texts().map((text) => JSON.stringify({ text }) + "\n"), "texts.jsonl");
      for (const file of this.isText ? [rows()] : this.files) form.append(this.field, file, file.name);
      return form;
    },
    progress(loaded, total) {
      this.sent = Math.min(loaded / total, 0.999);
      const passed = (performance.now() - this.began) / 1000;
      const left = passed > 1 ? `, ${seconds((passed / loaded) * (total - loaded))} left` : "";
      this.told = `Sending: ${size(loaded)} of ${size(total)}${left}`;
    },
    wait() {
      this.sent = 1;
      const began = performance.now();
      const tell = () => {
        const passed = Math.floor((performance.now() - began) / 1000);
        this.told = `All is sent. ${this.work}${passed ? ` ${passed} s` : ""}`;
      };
      tell();
      this.ticking = setInterval(tell, 1000);
    },
    giveUp() {
      this.request.abort();
    },
    answer(told) {
      this.end();
      this.$emit("answered", told);
    },
    hold(event) {
      event.preventDefault(); // "leave the page?", for it ends here
    },
    end() {
      clearInterval(this.ticking);
      clearTimeout(this.typing);
      window.removeEventListener("beforeunload", this.hold);
      if (this.busy && this.request.readyState !== 4) this.request.abort();
      this.busy = false;
    },
  },
};

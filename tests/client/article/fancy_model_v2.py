class FancyModel:
    def predict(self, text):
        return f"Version 2 can't tell anything smart about: {text}"

class FancyModel:
    def predict(self, text):
        return f"Can't tell anything smart about: {text}"
